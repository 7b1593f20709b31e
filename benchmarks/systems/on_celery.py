"""Celery: `celery -A on_celery worker`, with everything off that a queue does not need."""

from __future__ import annotations

import time

from celery import Celery
from fixture import IO, PAYLOAD, URL, done

app = Celery("bench", broker=URL)
app.conf.update(
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_pool_limit=100,
    broker_connection_retry_on_startup=True,
)


@app.task
def noop(i: int) -> None:
    done()


@app.task
def io(i: int) -> None:
    time.sleep(IO)
    done()


KINDS = {"noop": noop, "io": io}


def publish(kind: str) -> None:
    KINDS[kind].apply_async(kwargs=PAYLOAD)
