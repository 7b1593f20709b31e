"""What type checkers say of `streamtask.testing`. Never run."""

from __future__ import annotations

from typing import assert_type

from streamtask import App, Event
from streamtask.testing import Handled, InMemoryApp, eager, in_memory
from streamtask.testing.faults import Recorder, Report, check


class Placed(Event, stream="orders"):
    order_id: str


class Shipped(Event, stream="shipping"):
    order_id: str


app = App("typed")


@app.on(Placed)
async def ship(order: Placed) -> Shipped:
    return Shipped(order_id=order.order_id)


async def use() -> None:
    with in_memory(app) as memory:
        assert_type(memory, InMemoryApp)
        assert_type(memory.published_of(Shipped), list[Shipped])
        assert_type(memory.published, list[Event])
    handled = await eager(ship, Placed(order_id="1"), app=app)
    assert_type(handled, Handled)
    assert_type(handled.emitted_of(Shipped), list[Shipped])


async def send(order_id: str, *, idempotency_key: str) -> int:
    return len(order_id + idempotency_key)


async def try_faults() -> None:
    effects = Recorder()
    recorded = effects.recording(send)
    assert_type(await recorded("1", idempotency_key="k"), int)
    assert_type(await check(app, Placed(order_id="1"), effects=effects), Report)
