"""Passing emits on: at once what this worker has put there, within a second what others left, and no stream's trouble
holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.values import Relayed, Subscription
from streamtask.worker.relay import Relay
from tests.chaos.workers import until


class FakeOutbox:
    """`left` waits beside its streams; what is relayed is gone, unless `trouble` says otherwise."""

    def __init__(self, **left: int) -> None:
        self.left = left
        self.put: asyncio.Queue[set[str]] = asyncio.Queue()
        self.trouble: dict[str, Exception] = {}
        self.held_back: dict[str, dict[str, Exception]] = {}
        self.relayed: list[str] = []
        self.looks = 0

    async def news(self, *, within: float) -> set[str]:
        try:
            return await asyncio.wait_for(self.put.get(), within)
        except TimeoutError:
            return set()

    async def waiting(self, streams: Sequence[str]) -> dict[str, int]:
        self.looks += 1
        return {stream: self.left[stream] for stream in streams if self.left.get(stream)}

    async def relay(self, stream: str, owner: str) -> Relayed:
        if stream in self.trouble:
            raise self.trouble[stream]
        self.relayed.append(stream)
        held_back = self.held_back.get(stream, {})
        return Relayed(count=0 if held_back else self.left.pop(stream, 0), held_back=held_back)


def relay(outbox: FakeOutbox | None, *, own: Sequence[str] = ("orders",), metrics: Metrics | None = None) -> Relay:
    async def streams() -> list[str]:
        return ["bills", "mails", "orders"]

    transport: Any = SimpleNamespace(outbox=outbox, inspection=SimpleNamespace(streams=streams))
    subscriptions = [Subscription(stream=stream, group="g") for stream in own]
    return Relay(transport, "me", subscriptions, metrics or Metrics())


@pytest.fixture
async def running() -> Any:
    tasks: list[asyncio.Task[None]] = []

    def start(duty: Relay) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(duty.run()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def relayed(outbox: FakeOutbox, stream: str) -> None:
    await until(lambda: stream in outbox.relayed, 5, every=0.01)


async def test_what_others_left_is_passed_on_for_every_stream_that_is_known(running: Any) -> None:
    outbox = FakeOutbox(bills=3)

    running(relay(outbox))

    await relayed(outbox, "bills")
    assert outbox.left == {}


async def test_what_is_put_there_is_passed_on_without_waiting_for_the_next_look(running: Any) -> None:
    outbox = FakeOutbox()
    running(relay(outbox))
    outbox.put.put_nowait({"first"})
    await relayed(outbox, "first")
    looks = outbox.looks

    for n in range(5):
        outbox.put.put_nowait({f"{n}"})
    await relayed(outbox, "4")

    assert outbox.looks == looks


async def test_one_streams_trouble_holds_up_no_other_and_is_counted(running: Any) -> None:
    metrics = Metrics()
    outbox = FakeOutbox(bills=1, mails=1, orders=1)
    outbox.trouble["bills"] = TransportError("away")
    outbox.held_back["mails"] = {"target": TransportError("WRONGTYPE")}

    running(relay(outbox, metrics=metrics))

    await relayed(outbox, "orders")
    await relayed(outbox, "mails")
    assert outbox.left == {"bills": 1, "mails": 1}
    await until(lambda: b'streamtask_transport_errors_total{kind="relay"} 2' in metrics.render(), 5)


async def test_at_the_end_what_still_waits_beside_its_own_streams_is_passed_on() -> None:
    outbox = FakeOutbox(orders=2, bills=1)
    duty = relay(outbox)
    assert not await duty.is_done()

    await duty.finish()

    assert outbox.relayed == ["orders"]
    assert await duty.is_done()


async def test_an_engine_without_an_outbox_is_left_alone(running: Any) -> None:
    duty = relay(None)

    task = running(duty)
    await asyncio.sleep(0)
    await duty.finish()

    assert await duty.is_done()
    assert not task.done()
