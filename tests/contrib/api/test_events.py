"""Results as they come: replayed from any id, over sockets and as server-sent events, to slow clients too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from streamtask_contrib.events import AudioChunkReceived, TranscriptionCompleted
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from streamtask import App
from tests.contrib.api.serving import Served, answers, deaf, hear, hear_all, measured, served, until

pytest.importorskip("fastapi", reason="the extra `api` is not installed")


def result(sequence: int, *, is_last: bool = False, is_partial: bool = False, text: str = "") -> TranscriptionCompleted:
    chunk = AudioChunkReceived(session_id="talk", chunk_id=f"talk-{sequence}", sequence=sequence, is_last=is_last)
    said = next(iter(answers(chunk)))
    assert isinstance(said, TranscriptionCompleted)
    return said.model_copy(update={"is_partial": is_partial, "text": text or said.text})


async def own(api: Served, session_id: str = "talk") -> None:
    await api.service.register(session_id).begin("local", "test")


@asynccontextmanager
async def listening(api: Served, after: str = "0") -> AsyncIterator[ClientConnection]:
    """A socket of the session's events, once nothing can be missed any more."""
    async with api.socket(f"/api/sessions/talk/events?after={after}") as socket:
        assert (await hear(socket))["type"] == "ready"
        yield socket


async def lines(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of an event stream, with their ids."""
    event: dict[str, Any] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if not line and event:
            yield event
            event = {}
        elif name == "data":
            event |= json.loads(value)
        elif name == "id":
            event["last_id"] = value


async def test_a_stream_of_events_goes_on_behind_the_last_id(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        await own(api)
        await app.publish_many([result(n) for n in range(5)])
        async with asyncio.timeout(20), api.client.stream("GET", "/api/sessions/talk/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = lines(response)
            first = [await anext(events) for _ in range(3)]
        assert [event["text"] for event in first] == ["word0", "word1", "word2"]
        headers = {"Last-Event-ID": first[-1]["last_id"]}
        async with asyncio.timeout(20), api.client.stream("GET", "/api/sessions/talk/events", headers=headers) as again:
            events = lines(again)
            assert [(await anext(events))["text"] for _ in range(2)] == ["word3", "word4"]
            await app.publish(result(5))
            assert (await anext(events))["text"] == "word5"


async def test_a_socket_of_events_goes_on_behind_the_last_id(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app:
        await own(api)
        await app.publish_many([result(n) for n in range(4)])
        async with listening(api) as socket:
            seen = [await hear(socket) for _ in range(2)]
        async with listening(api, seen[-1]["id"]) as socket:
            assert [(await hear(socket))["text"] for _ in range(2)] == ["word2", "word3"]
        async with listening(api, "$") as socket:
            await app.publish(result(9))
            assert (await hear(socket))["text"] == "word9"


async def test_a_process_that_is_new_replays_what_came_before_it(broker: str) -> None:
    async with App("test", broker=broker) as app:
        await app.publish_many([result(n) for n in range(3)])
    async with served(broker) as api:
        await own(api)
        async with listening(api) as socket:
            assert [(await hear(socket))["text"] for _ in range(3)] == ["word0", "word1", "word2"]


async def test_who_comes_back_too_late_is_told_what_is_missing(broker: str) -> None:
    async with served(broker, replay_bytes=2000) as api, App("test", broker=broker) as app:
        await own(api)
        await app.publish(result(0))
        async with listening(api) as socket:
            last = (await hear(socket))["id"]
        await app.publish_many([result(n) for n in range(1, 40)])
        async with listening(api, "$") as socket:
            await app.publish(result(40))
            await hear(socket)
        async with listening(api, last) as socket:
            told = await hear(socket)
            assert told["type"] == "gap"
            assert told["transcript"] == "/api/sessions/talk/transcript"


async def test_a_session_that_is_not_there_is_not_found(broker: str) -> None:
    async with served(broker) as api:
        assert (await api.client.get("/api/sessions/talk/events")).status_code == 404
        async with api.socket("/api/sessions/talk/events") as socket:
            assert "no session" in (await hear_all(socket))[0]["message"]
        assert socket.close_code == 4404


async def test_one_client_that_reads_nothing_holds_nobody_up(broker: str) -> None:
    """50 sockets, one of which never reads: the others get every final within a second of its emit."""
    clients, finals = 50, 40
    arrivals: list[list[float]] = [[] for _ in range(clients - 1)]
    long = "word " * 1000
    async with served(broker, max_waiting_finals=10) as api, App("test", broker=broker) as app:
        await own(api)
        async with deaf(api, "/api/sessions/talk/events"):
            async with AsyncExitStack() as stack:
                opened = [await stack.enter_async_context(api.socket("/api/sessions/talk/events")) for _ in arrivals]
                readers = [
                    asyncio.create_task(_read(socket, finals, mine))
                    for socket, mine in zip(opened, arrivals, strict=True)
                ]
                await until(lambda: api.service.connections.taken == clients)
                emitted = []
                for n in range(finals):
                    emitted.append(time.monotonic())
                    await app.publish(result(n, text=long))
                    await app.publish(result(n + 1, is_partial=True))
                    await asyncio.sleep(0.02)
                async with asyncio.timeout(20):
                    await asyncio.gather(*readers)
            waits = sorted(came - left for mine in arrivals for came, left in zip(mine, emitted, strict=True))
            median = round(waits[len(waits) // 2], 3)
            measured(clients=clients, finals=finals, slowest=round(waits[-1], 3), median=median)
            assert waits[-1] < 1
            # What the buffers of the operating system hold is as good as sent. Beyond that the deaf one is given up.
            await until(lambda: api.service.connections.taken == 1)
            for n in range(40):
                await app.publish(result(finals + n, text="word " * 50_000))
            await until(lambda: api.service.connections.taken == 0)


async def _read(socket: Any, finals: int, arrivals: list[float]) -> None:
    try:
        while len(arrivals) < finals:
            message = json.loads(await socket.recv())
            if message["type"] == "final":
                arrivals.append(time.monotonic())
    except ConnectionClosed as error:
        raise AssertionError(f"a client that reads was closed: {error}") from error
