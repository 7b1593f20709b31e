"""streamtask, as its users write it. Nothing is set that is not the default."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fixture import IO, PAYLOAD, URL, done

from streamtask import App, Event, RetryLater

app = App("bench", broker=URL)


class NoOp(Event, stream="bench"):
    i: int


class Io(Event, stream="bench"):
    i: int


class Emitting(Event, stream="bench"):
    i: int


class Emitted(Event, stream="emitted"):
    i: int


class Parked(Event, stream="bench"):
    i: int


@app.on(NoOp)
async def noop(_: NoOp) -> None:
    done()


@app.on(Io)
async def io(_: Io) -> None:
    await asyncio.sleep(IO)
    done()


@app.on(Emitting)
async def emit(event: Emitting) -> Emitted:
    done()
    return Emitted(i=event.i)


@app.on(Parked)
async def park(_: Parked) -> None:
    done()
    raise RetryLater(delay=3600)


KINDS: dict[str, type[NoOp | Io | Emitting | Parked]] = {"noop": NoOp, "io": Io, "emit": Emitting, "park": Parked}


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    async with app:
        yield


async def publish(kind: str) -> None:
    await app.publish(KINDS[kind](**PAYLOAD))


async def publish_many(kind: str, count: int) -> None:
    for start in range(0, count, 10_000):
        await app.publish_many([KINDS[kind](**PAYLOAD) for _ in range(min(10_000, count - start))])
