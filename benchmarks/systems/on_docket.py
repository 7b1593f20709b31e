"""docket, looking for tasks every 10 ms (its default is 100 ms). Run it to consume: its own command has no uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import uvloop
from docket import Docket, Worker
from fixture import CONCURRENCY, IO, PAYLOAD, URL, done

logging.disable(logging.INFO)


async def noop(i: int) -> None:
    done()


async def io(i: int) -> None:
    await asyncio.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}
_docket: list[Docket] = []


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Docket]:
    # With the 100 connections that redis-py allows by default, 100 tasks at once make the worker fail for 5 s.
    # A life of 0 for what is done: no results are kept.
    async with Docket("bench", f"{URL}?max_connections=1000", execution_ttl=timedelta(0)) as docket:
        for task in KINDS.values():
            docket.register(task)
        _docket.append(docket)
        yield docket
        _docket.clear()


async def publish(kind: str) -> None:
    await _docket[0].add(KINDS[kind])(**PAYLOAD)


async def publish_many(kind: str, count: int) -> None:
    docket = _docket[0]
    await docket.add_many([docket.call(KINDS[kind])(**PAYLOAD) for _ in range(count)])


async def consume() -> None:
    every = timedelta(milliseconds=10)
    async with connected() as docket, Worker(docket, concurrency=CONCURRENCY, minimum_check_interval=every) as worker:
        await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(consume())
