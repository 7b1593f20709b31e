"""Starts of limited handlers: one after the other, whoever asks, and nothing is saved up."""

from __future__ import annotations

import asyncio

import pytest

from streamtask.transport.redis import keys
from streamtask.transport.values import Start, Turn
from tests.conformance.engines import Engine, RedisEngine

#: What may have passed between two calls, in seconds.
_PASSED = 0.4


def start(limit: str = "h", *, group: str = "billing", spacing: float = 1.0, first: bool = False) -> Start:
    return Start(group=group, limit=limit, spacing=spacing, first=first)


async def reserve(engine: Engine, *starts: Start, ahead: float = 10.0, longest: float = 60.0) -> list[Turn]:
    consumer = await engine.consumer()
    return await consumer.transport.rates.reserve("orders", starts, ahead=ahead, longest=longest)


def near(turns: list[Turn], *waits: float) -> bool:
    return len(turns) == len(waits) and all(
        wait - _PASSED <= turn.wait <= wait + 0.001 for turn, wait in zip(turns, waits, strict=True)
    )


async def test_starts_are_spaced_from_now_on_whoever_asks_and_however_many_at_once(engine: Engine) -> None:
    assert await reserve(engine, start()) == [Turn(0.0, is_reserved=True)]

    turns = await reserve(engine, start(), start()) + await reserve(engine, start())

    assert near(turns, 1.0, 2.0, 3.0)
    assert all(turn.is_reserved for turn in turns)


async def test_limits_of_other_names_and_groups_are_others(engine: Engine) -> None:
    turns = await reserve(engine, start(), start("h:7"), start("h:8"), start(group="shipping"))

    assert turns == [Turn(0.0, is_reserved=True)] * 4


async def test_what_was_not_used_is_not_saved_up(engine: Engine) -> None:
    await reserve(engine, start(spacing=0.05))
    await engine.let_pass(0.3)

    turns = await reserve(engine, start(spacing=10.0), start(spacing=10.0))

    assert near(turns, 0.0, 10.0)


async def test_what_is_too_far_off_is_not_reserved_and_each_is_told_another_time_to_ask_again(engine: Engine) -> None:
    turns = await reserve(engine, *[start()] * 5, ahead=1.5)

    assert near(turns, 0.0, 1.0, 2.0, 3.0, 4.0)
    assert [turn.is_reserved for turn in turns] == [True, True, False, False, False]


async def test_who_has_been_told_goes_before_those_who_have_not(engine: Engine) -> None:
    await reserve(engine, *[start(spacing=0.2)] * 6, ahead=0.1)
    await engine.let_pass(0.2)

    [new, first] = await reserve(engine, start(spacing=0.2), start(spacing=0.2, first=True), ahead=0.1)

    assert not new.is_reserved
    assert near([new], 1.0)
    assert first.is_reserved
    assert first.wait < 0.1


async def test_nobody_is_told_to_wait_for_longer_than_the_longest(engine: Engine) -> None:
    turns = await reserve(engine, *[start()] * 5, ahead=0.0, longest=2.0)

    assert near(turns, 0.0, 1.0, 2.0, 2.0, 2.0)


async def test_of_many_who_ask_at_once_each_has_a_time_of_its_own(engine: Engine) -> None:
    consumers = [await engine.consumer(f"worker-{n}") for n in range(5)]
    answers = await asyncio.gather(
        *(
            consumer.transport.rates.reserve("orders", [start(spacing=0.2)] * 4, ahead=60.0, longest=60.0)
            for consumer in consumers
        )
    )
    waits = sorted(turn.wait for turns in answers for turn in turns)

    assert waits[-1] >= 19 * 0.2 - _PASSED


# ── on a real server ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_limit_ends_by_itself(redis_engine: RedisEngine) -> None:
    await reserve(redis_engine, start(spacing=0.2))

    assert 0 < redis_engine.client.pttl(keys.rate("orders", "billing", "h")) <= 202


@pytest.mark.parametrize("ahead", [0.5, 0.0])
async def test_a_clock_that_was_set_back_holds_nothing_up(redis_engine: RedisEngine, ahead: float) -> None:
    now = redis_engine.client.time()
    later = (now[0] + 86_400) * 1_000_000
    redis_engine.client.set(keys.rate("orders", "billing", "h"), f"{later} {later}")

    [turn] = await reserve(redis_engine, start(spacing=1.0, first=True), ahead=ahead)

    assert turn.wait <= 61.0
    [again] = await reserve(redis_engine, start(spacing=1.0, first=True), ahead=5.0)
    assert again.is_reserved


async def test_a_full_server_lets_what_is_limited_start(redis_engine: RedisEngine) -> None:
    redis_engine.client.config_set("maxmemory", "1")
    try:
        assert await reserve(redis_engine, start()) == [Turn(0.0, is_reserved=True)]
    finally:
        redis_engine.client.config_set("maxmemory", "0")
