"""Huey in threads, blocking reads, without results. It takes a task off before it runs it: a crash loses it."""

from __future__ import annotations

import time

from fixture import IO, PAYLOAD, URL, done
from huey import RedisHuey

huey = RedisHuey("bench", url=URL, results=False, blocking=True)


@huey.task()
def noop(i: int) -> None:
    done()


@huey.task()
def io(i: int) -> None:
    time.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}


def publish(kind: str) -> None:
    KINDS[kind](**PAYLOAD)
