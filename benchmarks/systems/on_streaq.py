"""streaQ, without results. Run it to consume: the same `run` as its command's, without its log line a task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fixture import CONCURRENCY, IO, PAYLOAD, URL, done
from streaq import Worker

logging.disable(logging.INFO)
worker = Worker(redis_url=URL, concurrency=CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task(ttl=0)
async def noop(i: int) -> None:
    done()


@worker.task(ttl=0)
async def io(i: int) -> None:
    await asyncio.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    async with worker:
        yield


async def publish(kind: str) -> None:
    await KINDS[kind].enqueue(**PAYLOAD)


async def publish_many(kind: str, count: int) -> None:
    for start in range(0, count, 500):
        await worker.enqueue_many([KINDS[kind].enqueue(**PAYLOAD) for _ in range(min(500, count - start))])


if __name__ == "__main__":
    worker.run_sync()
