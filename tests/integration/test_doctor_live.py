"""`streamtask doctor` on real servers: each risky setting is found with its remedy, and nothing on a sound server."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamtask import App, Event
from tests.chaos.workers import until
from tests.command_line import ask
from tests.servers import RedisServer, ServerBinary

_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "deploying.md"
_SOUND = ["--appendonly", "yes", "--appendfsync", "always"]


class Job(Event, stream="jobs"):
    n: int


@pytest.fixture
def server(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """Not started yet."""
    server = RedisServer(server_binary, tcp=True)
    yield server
    server.close()


async def findings(server: RedisServer, url: str = "") -> dict[str, dict[str, Any]]:
    """What is found, but for holes of this version, by what was looked at."""
    said = await ask(url or f"unix://{server.socket}", "doctor", "--json")
    return {finding["check"]: finding for finding in said.document if finding["check"] != "version"}


def recommended() -> tuple[list[str], list[str]]:
    """The lines of the page's redis.conf: for every server, and for one with replicas."""
    [block] = re.findall(r"^# redis\.conf\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    always, _, replicated = block.partition("# only on a server with replicas\n")
    return always.splitlines(), replicated.splitlines()


def as_options(lines: list[str]) -> list[str]:
    """Lines of a configuration as arguments of a server."""
    return [word for line in lines for name, *values in [shlex.split(line)] for word in (f"--{name}", *values)]


async def test_nothing_is_found_on_the_configuration_that_the_documentation_recommends(server: RedisServer) -> None:
    lines, _ = recommended()
    assert len(lines) > 5
    # Asked for once it runs: to see whether it does, the harness has no password.
    server.start(*as_options([line for line in lines if not line.startswith("requirepass")]))
    server.client().config_set("requirepass", "PASSWORD")

    assert await findings(server, f"redis://:PASSWORD@127.0.0.1:{server.port}/0") == {}


RISKY = {
    "maxmemory-policy": (["--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru"], "problem", "noeviction"),
    "maxmemory": (["--maxmemory", "850kb"], "problem", "raise maxmemory"),
    "appendonly": (["--appendonly", "no"], "problem", "appendonly yes"),
    "appendfsync": (["--appendfsync", "no"], "warning", "everysec"),
    "no-appendfsync-on-rewrite": (["--no-appendfsync-on-rewrite", "yes"], "warning", "no-appendfsync-on-rewrite no"),
    "timeout": (["--timeout", "5"], "warning", "timeout 0"),
    "client-output-buffer-limit": (
        ["--client-output-buffer-limit", "normal", "1mb", "0", "0"],
        "warning",
        "normal 0 0 0",
    ),
    "lua-time-limit|busy-reply-threshold": (["--lua-time-limit", "5"], "warning", "5000"),
    "protected-mode": (["--protected-mode", "no"], "note", "protected-mode yes"),
}


@pytest.mark.parametrize("check", RISKY)
async def test_a_risky_setting_of_a_real_server_is_found_with_its_remedy(server: RedisServer, check: str) -> None:
    options, level, remedy = RISKY[check]
    server.start(*_SOUND, *options)

    [(found, finding)] = (await findings(server)).items()

    assert found in check.split("|")
    assert finding["level"] == level
    assert remedy in finding["remedy"]


@pytest.mark.parametrize(("protected", "level"), [("yes", "warning"), ("no", "problem")])
async def test_a_server_without_a_password_that_others_can_reach_is_found(
    server: RedisServer, protected: str, level: str
) -> None:
    server.start(*_SOUND)
    client = server.client()
    client.config_set("protected-mode", protected)
    # An address that this machine does not have, and may lack: nothing is opened by it.
    client.config_set("bind", "127.0.0.1 -192.0.2.1")

    [finding] = (await findings(server)).values()

    assert (finding["check"], finding["level"]) == ("password", level)
    assert "192.0.2.1" in finding["message"]
    client.execute_command("ACL", "SETUSER", "default", "resetpass", ">PASSWORD")
    assert await findings(server, f"redis://:PASSWORD@127.0.0.1:{server.port}/0") == {}


async def test_a_server_that_cannot_write_to_its_disk_is_found(server: RedisServer, tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    server.start(*_SOUND, "--dir", str(gone))
    client = server.client()
    shutil.rmtree(gone)
    client.set("something", "to be saved")
    client.bgsave()
    await until(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0, 10)

    [finding] = (await findings(server)).values()

    assert (finding["check"], finding["level"]) == ("disk", "problem")
    assert "free space" in finding["remedy"]


async def test_a_primary_whose_replicas_need_not_follow_and_a_replica_are_found(
    server: RedisServer, server_binary: ServerBinary
) -> None:
    replica = RedisServer(server_binary, tcp=True)
    try:
        server.start(*_SOUND)
        replica.start(*_SOUND, "--replicaof", "127.0.0.1", str(server.port))
        await until(lambda: server.client().info("replication")["connected_slaves"] == 1, 20)

        [primary] = (await findings(server)).values()
        [other] = (await findings(replica)).values()
        server.client().config_set("min-replicas-to-write", "1")
        server.client().config_set("min-replicas-max-lag", "3")

        assert (primary["check"], primary["level"]) == ("min-replicas-to-write", "problem")
        assert "min-replicas-to-write 1" in primary["remedy"]
        assert (other["check"], other["level"]) == ("role", "problem")
        assert {line.split()[0] for line in recommended()[1]} == {"min-replicas-to-write", "min-replicas-max-lag"}
        assert await findings(server) == {}
    finally:
        replica.close()


async def test_a_limit_on_the_memory_of_clients_is_noted_where_the_server_has_one(server: RedisServer) -> None:
    server.start(*_SOUND)
    if "maxmemory-clients" not in server.client().config_get("maxmemory-*"):
        pytest.skip(f"{server.binary.name} has no such setting")
    server.client().config_set("maxmemory-clients", "1mb")

    [finding] = (await findings(server)).values()

    assert (finding["check"], finding["level"]) == ("maxmemory-clients", "note")


async def test_somebody_who_trims_a_stream_by_its_length_is_found_before_a_group_has_read_it(
    server: RedisServer,
) -> None:
    server.start(*_SOUND)
    client = server.client()
    app = App("shop", broker=server.url)

    @app.on(Job)
    async def handle(job: Job) -> None: ...

    async with app.worker():
        await app.publish(Job(n=0))
        await until(lambda: client.xinfo_groups("stream:jobs")[0]["last-delivered-id"] != b"0-0", 10)
    async with app:
        await app.publish_many([Job(n=n) for n in range(100)])
    if "lag" not in client.xinfo_groups("stream:jobs")[0]:
        pytest.skip(f"{server.binary.name} does not count what was removed")
    before = await findings(server)
    client.xtrim("stream:jobs", maxlen=20, approximate=False)

    messages = [finding["message"] for finding in await everything(server) if finding["level"] == "problem"]

    assert "problem" not in {finding["level"] for finding in before.values()}
    assert len(messages) == 1
    assert "had not read 80 entries" in messages[0]


async def everything(server: RedisServer) -> list[dict[str, Any]]:
    """All findings, also several about one thing."""
    found: list[dict[str, Any]] = (await ask(server.url, "doctor", "--json")).document
    return found


async def test_the_doctor_is_not_told_the_passwords_that_the_configuration_holds(server: RedisServer) -> None:
    server.start(*_SOUND)
    server.client().config_set("masterauth", "canary-1")
    server.client().config_set("requirepass", "canary-2")
    async with App("shop", broker=f"redis://:canary-2@127.0.0.1:{server.port}/0") as app:
        assert app.transport.inspection is not None
        settings = await app.transport.inspection.settings()

    assert settings["requirepass"] == settings["masterauth"] == "set"
    assert "canary" not in str(settings)
