"""How far a long chunk has come, kept so that another worker goes on there."""

from __future__ import annotations

import json

import pytest
from streamtask_contrib.audio.progress import Progress
from streamtask_contrib.events import Segment

import tests.contrib.audio.sounds  # noqa: F401 - skips without the extra
from streamtask import App


def segments(first: int, last: int) -> list[Segment]:
    return [Segment(start=n, end=n + 1, text="next slide please " * 100) for n in range(first, last)]


@pytest.mark.parametrize("rounds", [1, 5, 40])
async def test_who_goes_on_has_all_that_was_kept_and_a_checkpoint_stays_small(rounds: int):
    async with App("test", broker="memory://") as app:
        before = await Progress.of("a {chunk}\n", app.records, None)
        state = None
        for number in range(rounds):
            before.at.segments += segments(10 * number, 10 * (number + 1))
            before.at.position = number
            state = await before.checkpoint()
            assert len(json.dumps(state)) < 100_000

        after = await Progress.of("a {chunk}\n", app.records, state)

    assert after.segments() == before.segments() == segments(0, 10 * rounds)
    assert after.at.position == rounds - 1


async def test_who_finds_a_part_gone_begins_anew():
    async with App("test", broker="memory://") as app:
        before = await Progress.of("c", app.records, None)
        before.at.segments = segments(0, 50)
        before.at.position = 7
        state = await before.checkpoint()
        assert state["parts"] == 1
        await app.records.delete(before._key)

        after = await Progress.of("c", app.records, state)

    assert (after.at.position, after.segments()) == (0, [])


async def test_what_was_done_behind_the_last_checkpoint_is_done_again():
    async with App("test", broker="memory://") as app:
        before = await Progress.of("c", app.records, None)
        before.at.segments = segments(0, 2)
        state = await before.checkpoint()
        # Its part is in the record, and the checkpoint that counts it was never kept.
        before.at.segments += segments(2, 60)
        await before.checkpoint()

        after = await Progress.of("c", app.records, state)
        after.at.segments += segments(2, 60)
        again = await after.checkpoint()

        assert (await Progress.of("c", app.records, again)).segments() == segments(0, 60)
