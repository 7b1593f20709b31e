"""arq, polling every 10 ms (its default is 500 ms), without results. Run it to consume: its command has no uvloop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker
from fixture import CONCURRENCY, IO, PAYLOAD, URL, done

SETTINGS = RedisSettings.from_dsn(URL)
_pool: list[ArqRedis] = []


async def noop(ctx: dict[str, Any], i: int) -> None:
    done()


async def io(ctx: dict[str, Any], i: int) -> None:
    await asyncio.sleep(IO)
    done()


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    _pool.append(await create_pool(SETTINGS))
    yield
    await _pool.pop().aclose()


async def publish(kind: str) -> None:
    await _pool[0].enqueue_job(kind, **PAYLOAD)


async def consume() -> None:
    worker = Worker(
        [noop, io],
        redis_settings=SETTINGS,
        max_jobs=CONCURRENCY,
        queue_read_limit=1000,
        poll_delay=0.01,
        keep_result=0,
        log_results=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    uvloop.run(consume())
