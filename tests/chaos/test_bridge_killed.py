"""Calls that Celery sends to a queue whose bridge is killed: each of them runs once in a worker of streamtask."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streamtask import failpoints
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import HEAD, LONG, PRELUDE, Ledger, nothing_pending, until
from tests.servers import RedisServer

celery = pytest.importorskip("celery")

SOURCE = """
@app.task(name="shop.record")
async def record(n: int, *, by: str = "") -> None:
    note("ran", n, by=by)


@app.task(name="shop.dated", result_ttl=None)
async def dated(when: datetime, amount: Decimal, blob: bytes) -> None:
    note("dated", f"{when.isoformat()} {amount} {blob.decode()}")
"""
HEADED = "from datetime import datetime\nfrom decimal import Decimal\n" + SOURCE
CALLS, KILLS = (5000, 20) if LONG else (200, 2)


#: A RabbitMQ server, where there is one.
AMQP = os.environ.get("STREAMTASK_TEST_AMQP")


class Bridges:
    """`streamtask bridge` processes in the folder of the app, and the Celery that is to be left behind."""

    def __init__(self, source: str, server: RedisServer, folder: Path, ledger: Ledger) -> None:
        #: It has no code of the tasks.
        self.celery = celery.Celery("old", broker=source, set_as_current=False)
        self.celery.conf.update(task_ignore_result=True)
        self.server = server
        folder.mkdir()
        for name, text in {"prelude": PRELUDE, "chaos_app": HEAD + HEADED}.items():
            (folder / f"{name}.py").write_text(text)
        self.folder = folder
        self.left = folder / "left"
        self.left.touch()
        self._arguments = ["bridge", "--from", source, "-A", "chaos_app:app", "--broker", server.url]
        self._environment = {"CHAOS_LEDGER": str(ledger.path), "PYTHONDONTWRITEBYTECODE": "1"}
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """One that is killed between publishing and acking as often as `left` has bytes."""
        armed = {failpoints.VARIABLE: f"bridge_published:kill:{self.left}"}
        code = "from streamtask.cli import main; main()"
        with (self.folder / "log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-c", code, *self._arguments, "--log-format", "json", *arguments],
                cwd=self.folder, env=os.environ | self._environment | armed, stdout=log, stderr=log,
            )  # fmt: skip
        self._running.append(started)
        return started

    def logs(self, event: str) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self.celery.close()
        print((self.folder / "log").read_text()[-4000:])  # noqa: T201 - shown where a test fails


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 40)


@pytest.fixture(params=["redis", *(["amqp"] if AMQP else [])])
def bridge(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path, ledger: Ledger
) -> Iterator[Bridges]:
    source = AMQP if request.param == "amqp" and AMQP else f"redis+socket://{redis_server.socket}"
    made = Bridges(source, redis_server, tmp_path / "bridge", ledger)
    made.celery.control.purge()  # RabbitMQ may have something of a test that failed
    yield made
    made.close()


def kept(server: RedisServer) -> list[dict[str, Any]]:
    """Headers of what was put aside, oldest first."""
    return [json.loads(raw)["headers"] for raw in reversed(server.client().lrange("celery.unbridged", 0, -1))]


def left_at_the_source(server: RedisServer) -> int:
    client = server.client()
    return sum(client.llen(key) for key in ("celery", "celery.bridging", "celery\x06\x163", "celery\x06\x169"))


@one_server
@pytest.mark.timeout(600 if LONG else 90)
async def test_every_call_runs_once_although_the_bridge_is_killed_between_publishing_and_acking(
    bridge: Bridges, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    await start_worker(bridge.server.url, HEADED)
    began = time.monotonic()
    numbers = itertools.count()
    sent: set[str] = set()

    def send(calls: int = 1) -> str:
        """Send so many; the last one's number."""
        for _, n in zip(range(calls), numbers, strict=False):
            options: dict[str, Any] = {"compression": "zlib"} if n % 7 == 0 else {}
            options |= {"countdown": 0.5} if n % 11 == 0 else {}
            options |= {"priority": n % 10} if n % 3 == 0 else {}
            bridge.celery.send_task("shop.record", (n,), {"by": "celery"}, expires=600, **options)
            sent.add(str(n))
        return str(n)

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(send, CALLS))
        for kill in range(KILLS):
            started = bridge.start()
            if kill % 2:
                # In the middle of its work, not at once.
                last = send()
                await until(lambda last=last: ledger.count("ran")[last], 40)
            bridge.left.write_bytes(b".")
            send()
            assert await ended(started) == -signal.SIGKILL
        survivor = bridge.start()
    await until(lambda: ledger.count("ran").keys() == sent, 60)
    await until(lambda: len(bridge.logs("bridge.started")) > KILLS, 20)
    survivor.send_signal(signal.SIGTERM)
    assert await ended(survivor) == 0
    assert await ended(bridge.start("--burst")) == 0
    assert left_at_the_source(bridge.server) == 0
    await nothing_pending(bridge.server.url, "chaos-tasks")

    assert ledger.count("ran") == Counter(dict.fromkeys(sent, 1))
    assert kept(bridge.server) == []
    measured("calls", len(sent))
    measured("bridges that were killed between publishing and acking", KILLS)
    measured("seconds", time.monotonic() - began)


@one_server
@pytest.mark.parametrize("bridge", ["redis"], indirect=True)
async def test_what_cannot_become_an_event_is_kept_whole_and_holds_up_nothing(
    bridge: Bridges, start_worker: StartWorker, ledger: Ledger
) -> None:
    await start_worker(bridge.server.url, HEADED)
    sender = bridge.celery
    sender.send_task("shop.unknown", (1,), task_id="unknown")
    sender.send_task("shop.record", ("no number",), task_id="unfit")
    sender.send_task("shop.record", (), task_id="too few")
    sender.send_task("shop.record", (2,), serializer="pickle", task_id="pickled")
    sender.send_task("shop.record", (3,), expires=-1, task_id="expired")
    first, second = sender.signature("shop.record", (4,)), sender.signature("shop.record", (5,))
    celery.chain(first, second, app=sender).apply_async(task_id="last of the chain")
    sender.send_task("shop.record", (6,), link=second, task_id="linked")
    bridge.server.client().lpush("celery", "no message")
    sender.send_task(
        "shop.dated", (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), Decimal("1.50"), b"bytes"), task_id="dated"
    )
    sender.send_task("shop.record", (7,), task_id="good")

    assert await ended(bridge.start("--burst")) == 0

    await until(lambda: ledger.count("ran") and ledger.count("dated"), 20)
    assert ledger.count("ran") == {"7": 1}
    assert ledger.count("dated") == {"2030-01-02T03:04:05+00:00 1.50 bytes": 1}
    reasons = {line["task_id"]: line["reason"] for line in bridge.logs("bridge.refused") if "task_id" in line}
    assert "has no task of the name 'shop.unknown'; it has shop.dated, shop.record" in reasons["unknown"]
    assert "do not fit" in reasons["unfit"]
    assert "do not fit" in reasons["too few"]
    assert "pickle never" in reasons["pickled"]
    assert "callbacks" in reasons["linked"]
    assert any("a chain goes on after it" in reason for reason in reasons.values())
    assert [line["task_id"] for line in bridge.logs("bridge.expired")] == ["expired"]
    client = bridge.server.client()
    assert left_at_the_source(bridge.server) == 0
    assert client.lrem("celery.unbridged", 1, "no message") == 1
    assert {head["id"]: head["streamtask_refused"] for head in kept(bridge.server)} == reasons
    # It is still Celery's: a worker of it would take it as it was sent.
    with sender.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery.unbridged")
        assert queue.get(timeout=5).headers["task"] == "shop.unknown"
        queue.close()
