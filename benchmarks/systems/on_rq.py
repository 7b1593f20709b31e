"""RQ's SimpleWorker (no fork a job: the fastest of its workers), without results."""

from __future__ import annotations

import time

from fixture import IO, PAYLOAD, URL, done
from redis import Redis
from rq import Queue

queue = Queue("bench", connection=Redis.from_url(URL))


def noop(i: int) -> None:
    done()


def io(i: int) -> None:
    time.sleep(IO)
    done()


#: As users do: by reference, from a module that the worker can import.
KINDS = {"noop": "on_rq.noop", "io": "on_rq.io"}


def publish(kind: str) -> None:
    queue.enqueue(KINDS[kind], kwargs=PAYLOAD, result_ttl=0)


def publish_many(kind: str, count: int) -> None:
    for start in range(0, count, 500):
        jobs = [Queue.prepare_data(KINDS[kind], kwargs=PAYLOAD, result_ttl=0) for _ in range(min(500, count - start))]
        queue.enqueue_many(jobs)
