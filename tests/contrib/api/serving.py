"""The API under a real uvicorn on a free loopback port, and a stand-in for the workers that hears what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from streamtask_contrib.api import ApiSettings, create_app
from streamtask_contrib.events import (
    AudioChunkReceived,
    Segment,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
    Word,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamtask import App, Context
from tests.chaos import workers
from tests.contrib.pcm import RATE, quiet, tone  # noqa: F401 - for the tests of the API

#: Seconds that anything may take.
PATIENCE = 20.0


class Served:
    """A running API."""

    def __init__(self, port: int, api: Any) -> None:
        self.port = port
        self.service = api.state.service
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)

    def socket(self, path: str, **options: Any) -> connect:
        """A socket of it, to be entered."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", max_size=None, **options)

    def live(self, query: str = "", **options: Any) -> connect:
        """A live session's socket."""
        return self.socket(f"/api/audio/stream{query}", **options)


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(url: str, **settings: Any) -> AsyncIterator[Served]:
    """The API on this broker."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        api = create_app(ApiSettings(**settings), broker=url)
        config = uvicorn.Config(api, log_level="warning", ws_ping_interval=None, timeout_graceful_shutdown=5)
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await until(lambda: server.started or running.done())
            if running.done():
                running.result()
            result = Served(listening.getsockname()[1], api)
            async with result.client:
                yield result
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def deaf(api: Served, path: str) -> AsyncIterator[None]:
    """A client that opens a socket, and reads nothing of what comes."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", api.port))
        head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await loop.sock_sendall(client, head.encode())
        yield


def worker_app(url: str, *, seen: list[AudioChunkReceived] | None = None, delay: float = 0.0) -> App:
    """Answers each chunk with a word for its place, and with its translations; fast, and without a model."""
    app = App("stand-in", broker=url)

    @app.on(AudioChunkReceived, group="audio-pipeline", dedupe=False)
    async def transcribe(chunk: AudioChunkReceived, ctx: Context) -> None:
        if seen is not None:
            seen.append(chunk)
        await asyncio.sleep(delay)
        for event in answers(chunk):
            ctx.emit(event)

    return app


def answers(chunk: AudioChunkReceived) -> Iterator[TranscriptionCompleted | TranslationCompleted]:
    """What a worker would say of a chunk: "word3" of the fourth."""
    end = chunk.start + (chunk.duration or 1.0)
    text = f"word{chunk.sequence}"
    words = [Word(start=chunk.start, end=end, text=text)]
    yield TranscriptionCompleted(
        session_id=chunk.session_id,
        chunk_id=chunk.chunk_id,
        sequence=chunk.sequence,
        start=chunk.start,
        end=end,
        is_last=chunk.is_last,
        is_partial=chunk.is_partial,
        language="en",
        text=text,
        segments=[Segment(start=chunk.start, end=end, text=text, words=words)],
    )
    if chunk.is_partial:
        return
    for target in chunk.processing_flags.target_languages:
        yield TranslationCompleted(
            session_id=chunk.session_id,
            chunk_id=chunk.chunk_id,
            sequence=chunk.sequence,
            source_language="en",
            target_language=target,
            text=f"mot{chunk.sequence}",
            segments=[TranslatedSegment(start=chunk.start, end=end, source_text=text, text=f"mot{chunk.sequence}")],
        )


# ── audio ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def wav(pcm: bytes, *, rate: int = RATE) -> bytes:
    """The same as a file."""
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    parts = [(b"fmt ", form), (b"data", pcm)]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(part)) + part for name, part in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ── talking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def hear(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message of one of these kinds; what is of another kind is passed over."""
    async with asyncio.timeout(PATIENCE):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if not kinds or message["type"] in kinds:
                return message


async def hear_all(socket: ClientConnection) -> list[dict[str, Any]]:
    """Everything until the server closes."""
    messages = []
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(json.loads(await socket.recv()))
    return messages


async def begin(socket: ClientConnection, **config: Any) -> dict[str, Any]:
    """Send the configuration; what the server says to it."""
    await socket.send(json.dumps({"type": "config", "sample_rate": RATE} | config))
    return await hear(socket, "ready", "error")


async def say(socket: ClientConnection, pcm: bytes, *, piece: float = 0.1) -> None:
    """Send audio, a tenth of a second a frame."""
    step = round(piece * RATE) * 2
    for at in range(0, len(pcm), step):
        await socket.send(pcm[at : at + step])


async def control(socket: ClientConnection, kind: str) -> None:
    """Send a control frame."""
    await socket.send(json.dumps({"type": kind}))


#: Wait until a condition, which may be async, holds.
until = functools.partial(workers.until, within=PATIENCE)


def measured(**figures: object) -> None:
    """Say what a test measured."""
    print("MEASURED", *(f"{name}={value}" for name, value in figures.items()))  # noqa: T201 - what it is for
