"""Configuration over HTTP: seen by operators alone, without its secrets, and taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.config_sync.versions import Configs

from tests.contrib.api.serving import Served, served, until
from tests.contrib.configs import SECRET, kept

FIRST = {"model": "tiny", "limits": {"beam": 2}, "api_token": SECRET}
SECOND = {"model": "small", "limits": {"beam": 2, "threads": 4}, "api_token": SECRET[::-1]}


async def told(api: Served, path: str, **options: Any) -> Any:
    answer = await api.client.get(f"/api/config{path}", **options)
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    assert SECRET[::-1] not in answer.text
    return answer.json()


async def test_a_configuration_is_shown_with_its_versions_and_without_its_secrets(broker: str, tmp_path: Path) -> None:
    async with served(broker) as api, kept(broker, tmp_path) as config:
        assert await told(api, "") == []
        await config.write("whisper", **FIRST)
        await config.write("whisper", **SECOND)
        [line] = await told(api, "")
        assert (line["service"], line["version"], line["drifts"], line["troubles"]) == ("whisper", 2, 0, 0)
        whole = await told(api, "/whisper")
        assert whole["values"] == SECOND | {"api_token": "***"}
        assert (whole["version"], whole["restored_from"]) == (2, None)
        assert [one["version"] for one in await told(api, "/whisper/versions")] == [2, 1]


async def test_what_differs_is_told_by_key_and_secrets_by_name(broker: str, tmp_path: Path) -> None:
    async with served(broker) as api, kept(broker, tmp_path) as config:
        await config.write("whisper", **FIRST)
        await config.write("whisper", **SECOND)
        await config.write("whisper", **FIRST | {"model": "large"})
        last = await told(api, "/whisper/diff")
        assert (last["from"], last["to"]) == (2, 3)
        found = await told(api, "/whisper/diff?from=1&to=2")
        assert found["changed_keys"] == ["api_token", "limits.threads", "model"]
        assert '~ model: "tiny" → "small"' in found["text"].splitlines()
        assert (await told(api, "/whisper/diff?from=3&to=3"))["changed_keys"] == []


async def test_a_rollback_is_asked_for_and_done(broker: str, tmp_path: Path) -> None:
    async with served(broker) as api, kept(broker, tmp_path) as config:
        await config.write("whisper", **FIRST)
        before = (tmp_path / "whisper.json").read_bytes()
        await config.write("whisper", **SECOND)
        wish = {"to_version": 1, "reason": "the small one is too slow"}
        answer = await api.client.post("/api/config/whisper/rollback", json=wish)
        assert (answer.status_code, answer.json()["to_version"]) == (202, 1)

        async def is_back() -> bool:
            whole = await told(api, "/whisper")
            return (whole["version"], whole["restored_from"]) == (3, 1) and (
                tmp_path / "whisper.json"
            ).read_bytes() == before

        await until(is_back)
        assert (await told(api, "/whisper"))["values"]["model"] == "tiny"


async def test_who_runs_with_something_else_is_shown(broker: str, tmp_path: Path) -> None:
    async with served(broker) as api, kept(broker, tmp_path) as config:
        await config.write("whisper", model="tiny")
        await config.drift("whisper", "host:1", model="huge")
        [drift] = (await told(api, "/whisper"))["drifts"]
        assert (drift["instance"], drift["changed_keys"]) == ("host:1", ["model"])
        assert '"huge"' in drift["diff"]
        assert (await told(api, ""))[0]["drifts"] == 1


async def test_what_is_not_there_is_said_with_what_there_is(broker: str, tmp_path: Path) -> None:
    async with served(broker) as api, kept(broker, tmp_path) as config:
        await config.write("whisper", model="tiny")
        for method, path, code, said in (
            ("GET", "/other", 404, "no configuration of 'other'"),
            ("GET", "/other/versions", 404, "no configuration"),
            ("GET", "/whisper/diff?from=7", 404, "kept are: 1"),
            ("POST", "/whisper/rollback", 409, "has already"),
            ("GET", "/..%2f..%2fetc", 404, ""),
            ("GET", "/whisper/diff?from=zero", 422, "from"),
        ):
            answer = await api.client.request(
                method, f"/api/config{path}", json={"to_version": 1} if method == "POST" else None
            )
            assert (answer.status_code, said in answer.text) == (code, True), answer.text
        answer = await api.client.post("/api/config/whisper/rollback", json={"version": 1})
        assert (answer.status_code, "did you mean to_version?" in answer.text) == (422, True)
        assert await Configs(config.app.records).numbers("whisper") == [1]


async def test_configuration_is_for_operators(broker: str, tmp_path: Path) -> None:
    keys = {"keys": {"anna": "a-secret", "ben": "b-secret"}, "operators": ("anna",)}
    async with served(broker, **keys) as api, kept(broker, tmp_path) as config:
        await config.write("whisper", model="tiny")
        await config.write("whisper", model="small")
        for method, path in (
            ("GET", ""),
            ("GET", "/whisper"),
            ("GET", "/whisper/versions"),
            ("GET", "/whisper/diff"),
            ("POST", "/whisper/rollback"),
        ):
            body = {"to_version": 1} if method == "POST" else None
            answer = await api.client.request(
                method, f"/api/config{path}", headers={"X-Api-Key": "b-secret"}, json=body
            )
            assert answer.status_code == 403, path
            assert "STREAMTASK_API_OPERATORS" in answer.json()["detail"]
        assert len(await told(api, "", headers={"X-Api-Key": "a-secret"})) == 1
        assert await config.newest("whisper") == 2, "somebody who may not has taken it back"
