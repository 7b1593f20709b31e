"""How lanes are called, and what an event class declares of them."""

from __future__ import annotations

from typing import Any

import pytest

from streamtask import App, ConfigurationError, Event, lanes
from streamtask.event import describe
from streamtask.transport.redis import keys
from streamtask.transport.redis.hashslots import slot_of


class Order(Event, stream="orders", priorities=("high", "low")):
    n: int = 0


class Rush(Order, type="Rush"):
    """Inherits its stream and priorities."""


class Other(Event, stream="orders", priorities=("urgent", "normal")):
    n: int = 0


class Plain(Event, stream="orders"):
    n: int = 0


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (("high", "low"), ("high", "normal", "low")),
        (("high",), ("high", "normal")),
        (("low",), ("normal", "low")),
        (("urgent", "normal", "bulk", "idle"), ("urgent", "normal", "bulk", "idle")),
    ],
)
def test_normal_is_always_there(given: tuple[str, ...], order: tuple[str, ...]) -> None:
    assert lanes.ordered(given) == order


@pytest.mark.parametrize(
    "given", [(), "high", ("high", "high"), ("urgent", "bulk"), ("low", "high"), ("High",), ("a:b",), (1,), ("",)]
)
def test_what_makes_no_sense_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"priorit|stand"):
        lanes.ordered(given)
    with pytest.raises(ConfigurationError, match="Wrong"):
        type("Wrong", (Event,), {"__module__": __name__}, stream="orders", priorities=given)


@pytest.mark.parametrize(
    "stream", ["orders", "orders@high", "a:b.c-d@x_1", "foreign@", "@", "a@b@c", "a@High", "a@normal", "ö@x"]
)
def test_the_key_of_a_stream_has_its_name_whoever_has_called_it_so(stream: str) -> None:
    assert keys.name_of(keys.stream(stream).encode()) == stream


def test_lanes_share_a_slot_and_no_other_stream_can_be_taken_for_one() -> None:
    assert lanes.lane("orders", "high") == "orders@high"
    assert lanes.lane("orders", "normal") == "orders"
    assert (lanes.home("orders@high"), lanes.priority_of("orders@high")) == ("orders", "high")
    assert (lanes.home("orders"), lanes.priority_of("orders")) == ("orders", "normal")
    assert slot_of(keys.stream("orders@high")) == slot_of(keys.stream("orders")) == slot_of(keys.dead("orders@high"))
    with pytest.raises(ConfigurationError, match="a stream has"):
        type("Wrong", (Event,), {"__module__": __name__}, stream="orders@high")


def test_a_class_knows_its_lanes_and_says_how_one_is_declared() -> None:
    assert describe(Order).lanes == describe(Rush).lanes == ("orders@high", "orders", "orders@low")
    assert describe(Plain).lanes == ("orders",)
    assert describe(Order).stream_of(None) == describe(Order).stream_of("normal") == "orders"
    assert describe(Order).stream_of("low") == "orders@low"
    for cls, known in ((Order, "it has high, normal, low; "), (Plain, "")):
        with pytest.raises(ConfigurationError, match=rf"has no priority 'urgent'; {known}declare it, .*priorities=\("):
            describe(cls).stream_of("urgent")


def test_two_classes_of_a_stream_that_declare_other_priorities_are_refused() -> None:
    app = App("shop", broker="memory://")

    @app.on(Order)
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=r"declare other priorities: .*Order \('high', .*Other \('urgent'"):

        @app.on(Other)
        async def other(order: Other) -> None: ...


def test_what_holds_within_one_stream_does_not_go_with_priorities() -> None:
    app = App("shop", broker="memory://")

    with pytest.raises(ConfigurationError, match=r"several streams \(orders, orders@high, orders@low\), .* priorities"):

        @app.on(Order, ordered_by="n")
        async def handle(order: Order) -> None: ...
