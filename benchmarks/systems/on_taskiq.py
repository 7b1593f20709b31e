"""Taskiq on Redis Streams, without results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fixture import IO, PAYLOAD, URL, done
from taskiq_redis import RedisStreamBroker

# "0": what was published before the first worker came counts too.
broker = RedisStreamBroker(URL, consumer_id="0", xread_count=100)


@broker.task
async def noop(i: int) -> None:
    done()


@broker.task
async def io(i: int) -> None:
    await asyncio.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


async def publish(kind: str) -> None:
    await KINDS[kind].kiq(**PAYLOAD)
