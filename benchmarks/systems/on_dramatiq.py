"""Dramatiq on Redis, with its default middleware."""

from __future__ import annotations

import logging
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from fixture import IO, PAYLOAD, URL, done

logging.disable(logging.INFO)
dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor
def noop(i: int) -> None:
    done()


@dramatiq.actor
def io(i: int) -> None:
    time.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}


def publish(kind: str) -> None:
    KINDS[kind].send(**PAYLOAD)
