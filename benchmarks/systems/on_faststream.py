"""FastStream on Redis Streams. Run it to consume."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from fixture import CONCURRENCY, IO, KIND, PAYLOAD, URL, done
from pydantic import BaseModel

broker = RedisBroker(URL, logger=None)
app = FastStream(broker, logger=None)


class Payload(BaseModel):
    i: int


async def noop(payload: Payload) -> None:
    done()


async def io(payload: Payload) -> None:
    await asyncio.sleep(IO)
    done()


# One stream, as the other systems read one queue. "0": what was published before the first worker came counts too.
stream = StreamSub("bench", group="bench", consumer="one", last_id="0", max_records=100)
broker.subscriber(stream=stream, max_workers=CONCURRENCY)({"noop": noop, "io": io}[KIND])


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    await broker.connect()
    yield
    await broker.stop()


async def publish(kind: str) -> None:
    await broker.publish(PAYLOAD, stream="bench")


async def publish_many(kind: str, count: int) -> None:
    client = await broker.connect()
    for start in range(0, count, 500):
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(min(500, count - start)):
                await broker.publish(PAYLOAD, stream="bench", pipeline=pipe)
            await pipe.execute()


if __name__ == "__main__":
    uvloop.run(app.run())
