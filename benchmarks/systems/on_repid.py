"""Repid on Redis Streams. Run it to consume."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import uvloop
from fixture import CONCURRENCY, IO, PAYLOAD, URL, done
from repid import RedisServer, Repid, Router

logging.disable(logging.INFO)
server = RedisServer(URL, batch_size=100)
app = Repid()
app.servers.register_server("redis", server, is_default=True)
router = Router()


@router.actor(channel="bench")
async def noop(i: int) -> None:
    done()


@router.actor(channel="bench")
async def io(i: int) -> None:
    await asyncio.sleep(IO)
    done()


app.include_router(router)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    async with server.connection():
        yield


async def publish(kind: str) -> None:
    await app.send_message_json(channel="bench", payload=PAYLOAD, headers={"topic": kind})


async def consume() -> None:
    async with server.connection():
        await app.run_worker(tasks_limit=CONCURRENCY)


if __name__ == "__main__":
    uvloop.run(consume())
