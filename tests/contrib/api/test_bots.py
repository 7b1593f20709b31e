"""Bots over HTTP: asked for once, seen by their user alone, watched without a gap, called back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.events import AudioChunkReceived, BotRequested, BotStopRequested
from websockets.asyncio.client import ClientConnection

from streamtask import App
from tests.contrib.api.serving import Served, answers, deaf, hear, hear_all, measured, served, until
from tests.contrib.bots import advance

KEYS = {"keys": {"anna": "a-secret", "ben": "b-secret"}}
ANNA, BEN = ({"X-Api-Key": key} for key in KEYS["keys"].values())
MEETING = "https://meet.example.org/standup"


async def ask(api: Served, **wish: Any) -> Any:
    """The answer to a wish for a bot."""
    headers = wish.pop("headers", {})
    return await api.client.post("/api/bots", json={"meeting_url": MEETING} | wish, headers=headers)


async def published(app: App, kind: type[BotRequested | BotStopRequested], bot_id: str) -> list[Any]:
    """The bot's events of a kind, in the stream."""
    found = []
    await app.publish(BotStopRequested(bot_id="the-end"))
    async for stored in app.read("bot-control", after="0"):
        if stored.payload["bot_id"] == "the-end":
            return found
        if stored.event_type == kind.__name__ and stored.payload["bot_id"] == bot_id:
            found.append(kind.model_validate(stored.payload))
    raise AssertionError


@asynccontextmanager
async def watching(api: Served, bot_id: str, query: str = "") -> AsyncIterator[ClientConnection]:
    async with api.socket(f"/api/bots/{bot_id}/status{query}") as socket:
        yield socket


async def test_a_bot_that_is_asked_for_is_known_and_published(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        answer = await ask(api, language="eng", translate=["fr"], display_name="Notes", metadata={"team": "speech"})
        assert answer.status_code == 202, answer.text
        bot_id, session_id = answer.json()["bot_id"], answer.json()["session_id"]
        bot = (await api.client.get(f"/api/bots/{bot_id}")).json()
        assert (bot["state"], bot["desired"], bot["participants"]) == ("requested", "running", [])
        assert bot["metadata"] == {"team": "speech"}
        [request] = await published(app, BotRequested, bot_id)
        assert (request.session_id, request.user_id, request.language) == (session_id, "local", "en")
        assert request.processing_flags.target_languages == ["fr"]
        assert [one["bot_id"] for one in (await api.client.get("/api/bots")).json()] == [bot_id]


async def test_the_words_of_a_bot_are_those_of_its_session(broker: str) -> None:
    async with served(broker, **KEYS) as api, App("test", broker=broker) as app:
        session_id = (await ask(api, headers=ANNA)).json()["session_id"]
        for headers, code in ((ANNA, 404), (BEN, 404)):
            answer = await api.client.get(f"/api/sessions/{session_id}/transcript", headers=headers)
            assert (answer.status_code, "no results yet" in answer.text) == (code, headers is ANNA)
        async with api.socket(f"/api/sessions/{session_id}/events?key=a-secret") as socket:
            await hear(socket, "ready")
            await app.publish(next(answers(AudioChunkReceived(session_id=session_id, chunk_id=f"{session_id}-0"))))
            assert (await hear(socket, "final"))["text"] == "word0"


async def test_the_same_request_again_is_the_same_bot(broker: str) -> None:
    async with served(broker, **KEYS) as api, App("test", broker=broker) as app:
        first = await ask(api, bot_id="standup", headers=ANNA)
        again = await asyncio.gather(*(ask(api, bot_id="standup", headers=ANNA) for _ in range(5)))
        assert {answer.status_code for answer in again} == {202}
        assert all(answer.json() == first.json() for answer in again)
        assert len(await published(app, BotRequested, "standup")) == 1
        other = await ask(api, bot_id="standup", meeting_url=f"{MEETING}-2", headers=ANNA)
        assert (other.status_code, "otherwise" in other.json()["detail"]) == (409, True)
        theirs = await ask(api, bot_id="standup", headers=BEN)
        assert (theirs.status_code, "not yours" in theirs.json()["detail"]) == (409, True)


async def test_a_bot_is_seen_by_its_user_alone(broker: str) -> None:
    async with served(broker, **KEYS) as api:
        await ask(api, bot_id="standup", headers=ANNA)
        for method, path in (("GET", ""), ("GET", "/participants"), ("DELETE", "")):
            theirs = await api.client.request(method, f"/api/bots/standup{path}", headers=BEN)
            nobodys = await api.client.request(method, f"/api/bots/nobody{path}", headers=BEN)
            assert (theirs.status_code, nobodys.status_code) == (404, 404)
            assert theirs.text == nobodys.text.replace("nobody", "standup")
        assert (await api.client.get("/api/bots", headers=BEN)).json() == []
        assert len((await api.client.get("/api/bots", headers=ANNA)).json()) == 1
        for key, code in (("b-secret", 4404), ("wrong", 4401)):
            async with watching(api, "standup", f"?key={key}") as socket:
                await hear_all(socket)
            assert socket.close_code == code


async def test_a_session_that_has_audio_takes_no_bot(broker: str) -> None:
    async with served(broker, **KEYS) as api:
        await api.service.register("talk").begin("anna", "live")
        for headers, said in ((ANNA, "audio already"), (BEN, "not yours")):
            answer = await ask(api, session_id="talk", headers=headers)
            assert (answer.status_code, said in answer.json()["detail"]) == (409, True)
        await ask(api, session_id="meeting", headers=ANNA)
        assert (await ask(api, session_id="meeting", headers=ANNA)).status_code == 409, "another bot's"
        assert len((await api.client.get("/api/bots", headers=ANNA)).json()) == 1


async def test_a_user_has_so_many_bots_and_no_more(broker: str) -> None:
    async with served(broker, max_bots=3, **KEYS) as api, App("test", broker=broker) as app:
        asked = await asyncio.gather(*(ask(api, bot_id=f"bot{n}", headers=ANNA) for n in range(10)))
        codes = sorted(answer.status_code for answer in asked)
        assert codes == [202] * 3 + [429] * 7
        assert (await ask(api, headers=BEN)).status_code == 202
        mine = [one["bot_id"] for one in (await api.client.get("/api/bots", headers=ANNA)).json()]
        assert (await ask(api, bot_id=mine[0], headers=ANNA)).status_code == 202, "it is one of the three"
        await advance(app, mine[0], "stopped")
        assert (await ask(api, headers=ANNA)).status_code == 202
        living = (await api.client.get("/api/bots?living=true", headers=ANNA)).json()
        assert len(living) == 3
        assert mine[0] not in {one["bot_id"] for one in living}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"meeting_url": "data:text/html,hello"}, "no meeting"),
        ({"meeting_url": "file:///etc/passwd"}, "no meeting"),
        ({"meeting_url": "FILE:/etc/passwd"}, "no meeting"),
        ({"meeting_url": "javascript:alert(1)", "driver": "other"}, "no meeting"),
        ({"meeting_url": "meet.example.org/room"}, "whole address"),
        ({"meeting_url": "https://"}, "whole address"),
        ({"meeting_url": "https://anna:secret@meet.example.org/"}, "auth_token_ref"),
        ({"meeting_url": "https://meet.example.org/", "driver": "file"}, "recording"),
        ({"auth_token_ref": "eyJhbGciOi"}, "never the token itself"),
        ({"auth_token": "eyJhbGciOi"}, "a token is never sent"),
        ({"password": "eyJhbGciOi"}, "a token is never sent"),
        ({"meeting": MEETING}, "did you mean meeting_url?"),
        ({"automatic_leave": {"silense": 5}}, "automatic_leave.silense"),
        ({"automatic_leave": {"silence": -5}}, "automatic_leave.silence"),
        ({"language": "klingon"}, "klingon"),
        ({"bot_id": "../etc"}, "bot_id"),
        ({"metadata": {"a": "b" * 1000}}, "metadata"),
    ],
)
async def test_a_wish_that_is_wrong_is_refused_in_words(broker: str, wish: dict[str, Any], said: str) -> None:
    async with served(broker) as api:
        answer = await ask(api, **wish)
        assert answer.status_code == 422
        detail = answer.json()["detail"]
        assert said in detail
        assert "eyJhbGciOi" not in answer.text
        assert "secret" not in answer.text
        assert (await api.client.get("/api/bots")).json() == []


async def test_a_recording_is_a_meeting_for_the_driver_that_plays_it(broker: str) -> None:
    async with served(broker) as api:
        assert (await ask(api, meeting_url="file:meeting.wav", driver="file")).status_code == 202


async def test_a_stop_stands_while_no_orchestrator_lives(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        await ask(api, bot_id="standup")
        answer = await api.client.delete("/api/bots/standup")
        assert (answer.status_code, answer.json()["desired"]) == (202, "stopped")
        assert (await api.client.delete("/api/bots/standup")).status_code == 202
        assert len(await published(app, BotStopRequested, "standup")) == 1
        bot = await Bots(app).load("standup")
        assert bot is not None
        assert (bot.desired, bot.stop_reason) == ("stopped", "requested")


# ── watching ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_that_is_deleted_has_its_bot_leave(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        accepted = (await ask(api)).json()
        assert (await api.client.delete(f"/api/sessions/{accepted['session_id']}")).status_code == 204
        bot = (await api.client.get(f"/api/bots/{accepted['bot_id']}")).json()
        assert bot["desired"] == "stopped"
        [stop] = await published(app, BotStopRequested, accepted["bot_id"])
        assert stop.reason == "session_deleted"


async def test_who_watches_sees_what_stands_and_then_every_status_to_the_end(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        await ask(api, bot_id="standup")
        await advance(app, "standup", "starting", "joining")
        async with watching(api, "standup") as socket:
            assert (await hear(socket))["state"] == "joining"
            await advance(app, "standup", "in_call", "capturing", people=("Anna",))
            await advance(app, "standup", "capturing", people=("Anna", "Ben"))
            there = (await api.client.get("/api/bots/standup/participants")).json()
            assert (there["state"], there["participants"]) == ("capturing", ["Anna", "Ben"])
            await advance(app, "standup", "leaving", "stopped", reason="everyone_left")
            told = await hear_all(socket)
        assert [one.get("state") for one in told] == [
            "in_call", "capturing", "capturing", "leaving", "stopped", "stopped",
        ]  # fmt: skip
        assert [one["sequence"] for one in told[:-1]] == [3, 4, 5, 6, 7]
        assert told[2]["participants"] == ["Anna", "Ben"]
        assert told[-1] == {"type": "ended", "bot_id": "standup", "state": "stopped", "reason": "everyone_left"}
        assert socket.close_code == 1000
        async with watching(api, "standup") as late:
            assert [one["type"] for one in await hear_all(late)] == ["status", "ended"]


async def test_who_comes_at_any_moment_misses_nothing_and_hears_nothing_twice(broker: str) -> None:
    """Clients come while the bot changes sixty times: each hears a run of sequences without a gap, to the end."""
    clients, changes = 12, 60
    async with served(broker) as api, App("test", broker=broker) as app:
        await ask(api, bot_id="standup")

        async def watch(late: float) -> list[int]:
            await asyncio.sleep(late)
            async with watching(api, "standup") as socket:
                return [one["sequence"] for one in await hear_all(socket) if one["type"] == "status"]

        watchers = [asyncio.create_task(watch(n * 0.02)) for n in range(clients)]
        await advance(app, "standup", "starting", "joining", "in_call")
        for n in range(changes):
            await advance(app, "standup", "in_call", people=(f"guest {n}",))
        await advance(app, "standup", "leaving", "stopped")
        heard = await asyncio.gather(*watchers)
        measured(clients=clients, first=sorted(run[0] for run in heard), last=heard[0][-1])
        assert len({run[0] for run in heard}) > 1, "all came at the same moment: nothing is shown"
        for run in heard:
            assert run == list(range(run[0], changes + 6))
        await until(lambda: api.service.connections.taken == 0)


async def test_a_client_that_does_not_read_is_given_up(broker: str) -> None:
    async with served(broker, max_waiting_finals=20) as api, App("test", broker=broker) as app:
        await ask(api, bot_id="standup")
        await advance(app, "standup", "starting", "joining", "in_call")
        async with deaf(api, "/api/bots/standup/status"), watching(api, "standup") as reads:
            await hear(reads)
            await until(lambda: api.service.connections.taken == 2)
            crowd = tuple(f"guest {n} {'x' * 2000}" for n in range(100))
            for n in range(100):
                await advance(app, "standup", "in_call", people=(f"{n}", *crowd))
                assert (await hear(reads))["participants"][0] == f"{n}"
            await until(lambda: api.service.connections.taken == 1)


async def test_one_reader_serves_every_socket(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        await ask(api, bot_id="standup")
        sockets = [api.socket("/api/bots/standup/status") for _ in range(30)]
        opened = [await socket.__aenter__() for socket in sockets]
        try:
            for socket in opened:
                assert json.loads(await socket.recv())["state"] == "requested"
            assert len(api.service.statuses.mailboxes("standup")) == 30
            await advance(app, "standup", "stopped")
            for socket in opened:
                assert [one["type"] for one in await hear_all(socket)] == ["status", "ended"]
        finally:
            for socket in sockets:
                await socket.__aexit__(None, None, None)
        await until(lambda: not api.service.statuses.mailboxes("standup"))
