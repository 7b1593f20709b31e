"""How much is taken in, and that neither what is due nor what is new starves the other."""

from __future__ import annotations

import asyncio

import pytest

from streamtask.worker.flow import FAST_HANDLER, Flow


def fast(flow: Flow) -> Flow:
    """Let many handlers come to their end at once."""
    for _ in range(200):
        flow.took(1, due=False)
        flow.left(0.0)
    return flow


def test_an_idle_worker_has_room_for_as_much_as_it_can_run() -> None:
    assert Flow(10).free == Flow(10).free_for_new == 10


def test_what_is_held_takes_room_until_it_has_left() -> None:
    flow = Flow(10)
    flow.took(10, due=False)
    assert flow.free == 0

    flow.left()

    assert (flow.free, flow.held, flow.taken) == (1, 9, 10)


def test_what_waits_for_something_else_takes_no_room() -> None:
    flow = Flow(10, aside=lambda: 4)
    flow.took(10, due=False)
    assert flow.free == 4


def test_slow_handlers_get_nothing_ahead_and_fast_ones_a_bounded_number() -> None:
    slow = Flow(10)
    slow.took(1, due=False)
    slow.left(FAST_HANDLER)
    assert slow.free == 10

    assert 10 < fast(Flow(10)).free <= 410
    assert fast(Flow(1000)).free <= 1400


def test_a_stall_stops_taking_ahead_until_handlers_are_fast_again() -> None:
    flow = fast(Flow(10))
    flow.stalled()
    assert flow.free == 10

    assert fast(flow).free > 10


def test_while_something_due_waits_new_events_get_what_due_ones_got_before_them() -> None:
    flow = Flow(4)
    flow.due_waits(waits=True)
    assert (flow.free, flow.free_for_new) == (4, 0)

    flow.took(1, due=True)
    assert flow.free_for_new == 1
    flow.took(1, due=False)

    assert (flow.free, flow.free_for_new) == (2, 0)


@pytest.mark.parametrize("eager", ["due", "new"])
def test_neither_starves_the_other_in_one_slot_however_eager_it_is(eager: str) -> None:
    flow, taken = Flow(1), {"due": 0, "new": 0}
    flow.due_waits(waits=True)
    for _ in range(100):
        # Who is asked first gets the slot if it may have it.
        for kind in ("due", "new") if eager == "due" else ("new", "due"):
            if flow.free_for_new if kind == "new" else flow.free:
                flow.took(1, due=kind == "due")
                taken[kind] += 1
                break
        flow.left(1.0)
        if eager == "due" and flow.free_for_new:
            flow.took(1, due=False)
            taken["new"] += 1
            flow.left(1.0)

    assert min(taken.values()) >= 45


def test_nothing_is_kept_from_new_events_once_nothing_due_waits() -> None:
    flow = Flow(4)
    flow.due_waits(waits=True)
    flow.took(2, due=True)

    flow.due_waits(waits=False)

    assert flow.free_for_new == flow.free == 2


async def test_who_waits_for_room_is_told_when_there_is_some() -> None:
    flow = Flow(1)
    flow.took(1, due=False)
    waiting = asyncio.create_task(flow.wait(lambda: flow.free))
    await asyncio.sleep(0)
    assert not waiting.done()

    flow.left(1.0)

    assert await waiting == 1


async def test_a_wait_for_room_can_be_bounded() -> None:
    flow = Flow(1)
    flow.took(1, due=False)

    assert await flow.wait(lambda: flow.free, within=0.01) == 0
