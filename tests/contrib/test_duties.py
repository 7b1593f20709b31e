"""What runs beside the work of a process."""

from __future__ import annotations

import asyncio
import logging

import pytest
from streamtask_contrib.duties import running


async def forever(ended: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)


async def test_duties_end_with_the_work_and_nothing_is_told_of_it(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []
    async with running(forever(ended, "a"), forever(ended, "b"), ended="x.ended"):
        await asyncio.sleep(0)
        assert ended == []
    assert sorted(ended) == ["a", "b"]
    assert caplog.records == []


async def test_a_duty_that_ends_by_itself_is_told_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise LookupError("gone")

    ended: list[str] = []
    async with running(fails(), forever(ended, "b"), ended="x.ended"):
        await asyncio.sleep(0.01)
        assert ended == []
    [told] = caplog.records
    assert (told.levelno, told.getMessage()) == (logging.CRITICAL, "x.ended")
    assert told.exc_info is not None
    assert isinstance(told.exc_info[1], LookupError)


async def test_duties_end_also_where_the_work_fails() -> None:
    ended: list[str] = []

    async def work() -> None:
        async with running(forever(ended, "a"), ended="x.ended"):
            await asyncio.sleep(0)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await work()
    assert ended == ["a"]
