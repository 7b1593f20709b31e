"""Keys: who is let in, to what, and how much."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from pydantic import SecretStr
from streamtask_contrib.api.keys import Keys

from tests.contrib.api.serving import begin, hear_all, served, tone, until, wav

KEYS = {"keys": {"anna": "a-secret", "ben": "b-secret"}}


def scope(**headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": ("127.0.0.1", 1), "headers": pairs, "query_string": b""}


@pytest.mark.parametrize(
    "headers",
    [{"host": "localhost:8000"}, {"host": "127.0.0.1"}, {"host": "[::1]:8000"},
     {"host": "localhost:8000", "origin": "http://localhost:8000"}],
)  # fmt: skip
def test_without_keys_this_machine_is_let_in(headers: dict[str, str]) -> None:
    assert Keys({}).user(scope(**headers)) == "local"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "speech.example"},  # a name that a hostile page has made resolve to this machine
        {"host": "localhost:8000", "origin": "https://hostile.example"},
        {"host": "localhost:8000", "origin": "null"},
        {"host": "localhost:8000", "x_forwarded_for": "203.0.113.9"},  # a proxy on this machine
        {"host": "localhost:8000", "forwarded": "for=203.0.113.9"},
        {},
    ],
)
def test_without_keys_nobody_else_is(headers: dict[str, str]) -> None:
    assert Keys({}).user(scope(**headers)) is None


def test_without_keys_another_machine_is_refused() -> None:
    assert Keys({}).user(scope(host="localhost") | {"client": ("192.0.2.7", 1)}) is None


@pytest.mark.parametrize("form", [{"authorization": "Bearer a-secret"}, {"x_api_key": "a-secret"}])
def test_a_key_names_its_user(form: dict[str, str]) -> None:
    keys = Keys({"anna": SecretStr("a-secret"), "ben": SecretStr("b-secret")})
    assert keys.user(scope(**form)) == "anna"


@pytest.mark.parametrize(
    "form", [{}, {"authorization": "Bearer "}, {"authorization": "Basic a-secret"}, {"x_api_key": "a-secre"}]
)
def test_what_is_no_key_is_nobody(form: dict[str, str]) -> None:
    assert Keys({"anna": SecretStr("a-secret"), "empty": SecretStr("")}).user(scope(**form)) is None


def test_a_key_in_an_address_is_for_sockets_alone() -> None:
    keys = Keys({"anna": SecretStr("a-secret")})
    asked = scope() | {"query_string": b"key=a-secret"}
    assert keys.user(asked) is None
    assert keys.user(asked | {"type": "websocket"}) == "anna"


async def test_everything_but_the_page_and_the_probes_needs_a_key(broker: str) -> None:
    async with served(broker, **KEYS) as api:
        for path in ("/api/system/health", "/metrics", "/api/sessions/x/transcript", "/api/sessions/x/events"):
            answer = await api.client.get(path)
            assert answer.status_code == 401, path
            assert "Bearer" in answer.json()["detail"]
        for path in ("/", "/page/app.js", "/live", "/ready", "/openapi.json"):
            assert (await api.client.get(path)).status_code == 200, path
        for path, first in (("/api/audio/stream", "{}"), ("/api/sessions/x/events", "")):
            async with api.socket(path) as socket:
                if first:
                    await socket.send(first)
                assert "key" in (await hear_all(socket))[0]["message"]
            assert socket.close_code == 4401


async def test_a_session_is_seen_by_its_user_alone(broker: str) -> None:
    anna, ben = ({"X-Api-Key": key} for key in KEYS["keys"].values())
    async with served(broker, **KEYS) as api:
        files = {"file": wav(tone(1))}
        mine = (await api.client.post("/api/audio/upload", files=files, headers=anna)).json()["session_id"]
        its = (await api.client.post("/api/audio/upload", files=files, headers=ben)).json()["session_id"]
        assert mine != its
        for path in (f"/api/sessions/{mine}/transcript", f"/api/sessions/{mine}/events"):
            assert (await api.client.get(path, headers=ben)).status_code == 404
        assert (await api.client.delete(f"/api/sessions/{mine}", headers=ben)).status_code == 404
        taken = await api.client.post("/api/audio/upload", files=files, headers=ben, data={"session_id": mine})
        assert taken.status_code == 409
        async with api.live(f"?session_id={mine}&key=b-secret") as socket:
            await socket.send(json.dumps({}))
            await hear_all(socket)
        assert socket.close_code == 4409
        async with api.live() as socket:
            assert (await begin(socket, token="a-secret"))["type"] == "ready"


async def test_a_user_has_so_many_connections_and_no_more(broker: str) -> None:
    async with served(broker, max_connections=2, **KEYS) as api:
        async with api.live("?key=a-secret") as first, api.live("?key=a-secret") as second:
            await begin(first)
            await begin(second)
            async with api.live("?key=a-secret") as third:
                await third.send("{}")
                assert "2 of these are open" in (await hear_all(third))[0]["message"]
            assert third.close_code == 1013
            async with api.live("?key=b-secret") as other:
                await begin(other)
        await until(lambda: api.service.connections.taken == 0)
