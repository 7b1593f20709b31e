"""`streamtask config`: what there is, what differs, and back; secrets never."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from streamtask_contrib.config_sync.versions import Configs
from streamtask_contrib.events import ConfigRollbackRequested

from streamtask import App
from tests.command_line import Said, ask
from tests.contrib.configs import SECRET, kept

pytestmark = pytest.mark.skipif(
    not metadata.entry_points(group="streamtask.commands", name="config"),
    reason="this checkout was installed before it had the command: pip install -e . again",
)

FIRST = {"model": "tiny", "limits": {"beam": 2}, "api_token": SECRET}


async def config(broker: str, *arguments: str) -> Said:
    said = await ask(broker, "config", *arguments)
    assert SECRET not in said.out + said.err
    return said


async def test_show_lists_services_and_tells_one_whole(broker: str, tmp_path: Path) -> None:
    assert (await config(broker, "show")).err == "No service has a configuration yet.\n"
    async with kept(broker, tmp_path) as there:
        await there.write("whisper", **FIRST)
        await there.write("mail", sender="a@example.org")
        await there.write("whisper", **FIRST | {"model": "small"})
        await there.drift("whisper", "host:1", **FIRST | {"model": "huge", "api_token": "***"})
        listed = (await config(broker, "show")).out
        assert re.search(r"mail\s+1\s+\d+s\s+\S+\s+- *\n", listed)
        assert re.search(r"whisper\s+2\s+\d+s\s+\S+\s+drift of 1 *\n", listed)
        whole = (await config(broker, "show", "whisper")).out
        for line in ("  model: small", "  limits.beam: 2", "  api_token: ***"):
            assert line in whole.splitlines()
        assert re.search(r"Drift of host:1, since \d+s\n(  .*\n)*  ~ model: \"small\" → \"huge\"", whole)
        document = (await config(broker, "show", "whisper", "--json")).document
        assert [one["version"] for one in document["versions"]] == [2, 1]
        assert document["values"]["api_token"] == "***"
        assert [one["instance"] for one in document["drifts"]] == ["host:1"]


async def test_diff_compares_the_last_two_or_those_that_are_named(broker: str, tmp_path: Path) -> None:
    async with kept(broker, tmp_path) as there:
        for model in ("tiny", "small", "large"):
            await there.write("whisper", **FIRST | {"model": model})
        for arguments, out, err in (
            ((), '~ model: "small" → "large"\n', "whisper: version 2 → 3\n"),
            (("1",), '~ model: "tiny" → "large"\n', "whisper: version 1 → 3\n"),
            (("1", "2"), '~ model: "tiny" → "small"\n', "whisper: version 1 → 2\n"),
            (("2", "2"), "", "whisper: version 2 → 2\nThey say the same.\n"),
        ):
            assert await config(broker, "diff", "whisper", *arguments) == Said(0, out, err)
        assert (await config(broker, "diff", "whisper", "--json")).document["changed_keys"] == ["model"]


async def test_rollback_waits_until_it_is_done(broker: str, tmp_path: Path) -> None:
    async with kept(broker, tmp_path) as there:
        await there.write("whisper", **FIRST)
        await there.write("whisper", **FIRST | {"model": "small"})
        said = await config(broker, "rollback", "whisper", "1", "--reason", "too slow")
        assert said == Said(0, "whisper has version 1 again, as version 3.\n", "")
        head = await Configs(there.app.records).head("whisper")
        assert head is not None
        assert (head.number, head.restored_from, head.values["model"]) == (3, 1, "tiny")
        again = await config(broker, "rollback", "whisper", "2", "--json")
        assert again.document == {"service": "whisper", "version": 4, "restored_from": 2}
        assert re.search(r"whisper\s+4 \(as 2\)", (await config(broker, "show")).out)


async def test_a_mistake_is_answered_with_what_there_is(broker: str, tmp_path: Path) -> None:
    async with kept(broker, tmp_path) as there:
        await there.write("whisper", **FIRST)
        for arguments, message in (
            (("show", "whsper"), "no configuration of 'whsper'; did you mean 'whisper'? there are: whisper"),
            (("diff", "whisper", "9"), "'whisper' has no version 9; kept are: 1"),
            (("rollback", "whisper", "9"), "'whisper' has no version 9; kept are: 1"),
            (("rollback", "whisper", "1"), "version 1 is what 'whisper' has already"),
        ):
            assert await config(broker, *arguments) == Said(1, "", f"Error: {message}\n")


async def test_a_rollback_that_nobody_would_do_is_not_left_for_later(broker: str, tmp_path: Path) -> None:
    async with kept(broker, tmp_path) as there:
        await there.write("whisper", model="tiny")
        await there.write("whisper", model="small")
    said = await config(broker, "rollback", "whisper", "1")
    assert (said.code, "no worker of group config-sync lives" in said.err) == (1, True)
    async with App("test", broker=broker) as app:
        await app.publish(ConfigRollbackRequested(request_id="the-end", service="none", to_version=1))
        async for stored in app.read("config-sync", after="0"):
            if stored.event_type == ConfigRollbackRequested.__name__:
                assert stored.payload["request_id"] == "the-end"
                break
