"""A limit, no system: what redis-py alone can do. No retries, no validation, no heartbeat, no dead letters.

Run it to consume: XREADGROUP COUNT 100, decode, call, one XACK for all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import redis.asyncio as redis
import uvloop
from fixture import IO, PAYLOAD, URL, done

STREAM, GROUP = "bench", "bench"
client: Any = redis.Redis.from_url(URL)


async def noop(_: dict[str, int]) -> None:
    done()


async def io(_: dict[str, int]) -> None:
    await asyncio.sleep(IO)
    done()


async def consume() -> None:
    with contextlib.suppress(redis.ResponseError):
        await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    while True:
        for _, entries in await client.xreadgroup(GROUP, "one", {STREAM: ">"}, count=100, block=2000) or ():
            waiting, acks = [], []
            for entry_id, fields in entries:
                payload = msgspec.json.decode(fields[b"payload"])
                kind = fields[b"kind"]
                if kind == b"io":
                    waiting.append(io(payload))
                else:
                    await noop(payload)
                if kind != b"park":
                    acks.append(entry_id)
            await asyncio.gather(*waiting)
            if acks:
                await client.xack(STREAM, GROUP, *acks)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[None]:
    yield
    await client.aclose()


def fields(kind: str) -> dict[str, bytes | str]:
    return {"kind": kind, "payload": msgspec.json.encode(PAYLOAD)}


async def publish(kind: str) -> None:
    await client.xadd(STREAM, fields(kind))


async def publish_many(kind: str, count: int) -> None:
    for start in range(0, count, 500):
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(min(500, count - start)):
                pipe.xadd(STREAM, fields(kind))
            await pipe.execute()


if __name__ == "__main__":
    uvloop.run(consume())
