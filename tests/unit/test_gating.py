"""What `ordered_by=` and `concurrency=` are read as, and which mistakes are told at once."""

from __future__ import annotations

import pytest

from streamtask import App, Concurrency, ConfigurationError, Context, Event
from streamtask.transport.values import Gate


class Placed(Event, stream="orders"):
    customer_id: str


class Shipped(Event, stream="orders"):
    customer_id: str
    parcel: int = 0


class Billed(Event, stream="bills"):
    customer_id: str


async def handle(event: Placed | Shipped) -> None:
    """Does nothing."""


async def elsewhere(event: Placed | Billed) -> None:
    """Does nothing."""


def gates(app: App) -> tuple[Gate, ...]:
    [subscription] = app.broker.catalog.subscriptions()
    return subscription.gates


def test_ordered_by_is_one_gate_for_all_events_of_a_handler() -> None:
    app = App("a")
    app.on(ordered_by="customer_id")(handle)

    assert gates(app) == (Gate(name="Placed", types=("Placed", "Shipped"), path=("customer_id",), ordered=True),)


def test_concurrency_is_a_number_in_each_worker_and_a_concurrency_across_all() -> None:
    in_worker, across, both = App("a"), App("a"), App("a")
    in_worker.on(concurrency=3)(handle)
    across.on(concurrency=Concurrency(2, per="customer_id"))(handle)
    both.on(concurrency=Concurrency(10, per_worker=4))(handle)

    assert (gates(in_worker), in_worker.handlers[0].concurrency) == ((), 3)
    assert gates(across) == (Gate(name="Placed", types=("Placed", "Shipped"), path=("customer_id",), limit=2),)
    assert across.handlers[0].concurrency is None
    assert gates(both) == (Gate(name="Placed", types=("Placed", "Shipped"), limit=10),)
    assert both.handlers[0].concurrency == 4


def test_the_strictest_gate_of_a_stream_comes_first() -> None:
    app = App("a")

    @app.on(concurrency=Concurrency(2))
    async def placed(event: Placed) -> None: ...

    @app.on(ordered_by="parcel")
    async def shipped(event: Shipped) -> None: ...

    assert [gate.name for gate in gates(app)] == ["Shipped", "Placed"]


def test_nothing_need_be_read_only_where_one_gate_takes_all_that_is_handled() -> None:
    alone, beside, by_key = App("a"), App("a"), App("a")
    for app in (alone, beside):
        app.on(Placed, concurrency=Concurrency(2))(handle)
    beside.on(Shipped)(handle)
    by_key.on(Placed, concurrency=Concurrency(2, per="customer_id"))(handle)

    limits = [app.broker.catalog.subscriptions()[0].limit for app in (alone, beside, by_key)]
    assert limits == [2, None, None]


def test_a_task_is_ordered_by_a_parameter() -> None:
    app = App("a")

    @app.task(ordered_by="account")
    async def transfer(ctx: Context, account: str, *more: int) -> None: ...

    [gate] = gates(app)
    assert (gate.path, gate.ordered) == (("arguments", "account"), True)
    for name in ("ctx", "more", "arguments"):
        with pytest.raises(ConfigurationError, match=f"transfer.*'{name}', which is no parameter"):
            App("b").task(ordered_by=name)(transfer._function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ordered_by": "customer"}, "test_gating.handle: ordered_by names 'customer', which is no field of Placed"),
        ({"ordered_by": "parcel"}, "'parcel', which is no field of Placed"),
        ({"concurrency": Concurrency(1, per="no")}, r"Concurrency\(per=...\) names 'no', which is no field of Placed"),
        ({"ordered_by": "customer_id", "concurrency": Concurrency(1)}, "does not go with it"),
    ],
)
def test_what_makes_no_sense_is_told_when_a_handler_is_registered(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        App("a").on(**options)(handle)  # type: ignore[arg-type]


def test_events_of_several_streams_have_no_order() -> None:
    with pytest.raises(ConfigurationError, match="several streams \\(bills, orders\\)"):
        App("a").on(ordered_by="customer_id")(elsewhere)


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1, "per_worker": 0}])
def test_a_limit_is_at_least_one(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        Concurrency(**options)
