"""A file of audio → steps, read ahead in a thread."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from streamtask_contrib.audio.activity import TurnOptions
from streamtask_contrib.audio.decoding import AudioFile, Limits
from streamtask_contrib.audio.reading import ReadAhead, Reading
from streamtask_contrib.events import AudioConfig

from tests.contrib.audio.sounds import RATE, say, silence, speaks, wav

LIMITS = Limits(seconds=3600, decoded_bytes=1 << 30)
OPTIONS = TurnOptions(threshold=0.5, min_silence=0.4, padding=0.2, longest=8.0)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@speaks
def test_each_block_is_a_step_and_any_step_is_a_place_to_go_on():
    sound = wav([part for _ in range(12) for part in (silence(4), say("start the meeting"), silence(1))])
    with AudioFile(io.BytesIO(sound), AudioConfig(), LIMITS) as file:
        reading = Reading(file, OPTIONS)
        steps = list(reading.steps())
    found = [turn.start for step in steps for turn in step.turns]

    assert len(steps) == 3
    assert len(found) == 12
    assert min(reading.decode, reading.vad) > 0
    for number, step in enumerate(steps):
        with AudioFile(io.BytesIO(sound), AudioConfig(), LIMITS) as file:
            rest = [turn.start for each in Reading(file, OPTIONS, at=step.resume_at).steps() for turn in each.turns]
        behind = sum(len(each.turns) for each in steps[: number + 1])
        assert rest == pytest.approx(found[behind:], abs=0.25 * RATE)


@speaks
def test_the_turn_that_ends_with_the_sound_is_in_the_step_of_its_block():
    sound = wav([say("start the meeting"), silence(1), say("next slide please")])
    with AudioFile(io.BytesIO(sound), AudioConfig(), LIMITS) as file:
        [step] = Reading(file, OPTIONS).steps()

    assert len(step.turns) == 2


async def test_the_next_item_is_made_while_one_is_used(threads: ThreadPoolExecutor):
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    async with ReadAhead(items(), threads) as ahead:
        first = await anext(ahead)
        assert await asyncio.to_thread(second.wait, 5)
        assert first == 0
        assert [item async for item in ahead] == [1, 2]
    assert made == [0, 1, 2]


async def test_whoever_stops_in_the_middle_waits_for_the_thread(threads: ThreadPoolExecutor):
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        may_end.wait(5)
        ended.set()
        yield 1

    async def use() -> None:
        async with ReadAhead(items(), threads) as ahead:
            async for _ in ahead:
                await asyncio.Event().wait()

    task = asyncio.create_task(use())
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await task

    # What the items are read from may be closed now.
    assert ended.is_set()


async def test_an_error_of_an_item_is_raised_where_it_is_awaited(threads: ThreadPoolExecutor):
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("broken")

    async with ReadAhead(items(), threads) as ahead:
        assert await anext(ahead) == 0
        with pytest.raises(ValueError, match="broken"):
            await anext(ahead)


def test_a_block_of_exactly_the_right_length_is_not_the_last_word():
    with AudioFile(io.BytesIO(wav(np.zeros(60 * RATE, np.float32))), AudioConfig(), LIMITS) as file:
        assert [step.turns for step in Reading(file, OPTIONS).steps()] == [[], [], []]
