"""A loop that stops for blocking code in its own thread: what runs where, and what comes out of it."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from streamtask.worker.blocking import MainThread

named: contextvars.ContextVar[str] = contextvars.ContextVar("named", default="")


@pytest.fixture
def main() -> Iterator[MainThread]:
    with asyncio.Runner() as runner:
        yield MainThread(runner)


def where() -> tuple[bool, bool]:
    """Whether this is the main thread, and whether a loop runs in it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.current_thread() is threading.main_thread(), False
    return threading.current_thread() is threading.main_thread(), True


def test_blocking_parts_run_in_the_loops_thread_while_it_stands_still_in_the_context_of_who_asked(
    main: MainThread,
) -> None:
    async def work() -> list[Any]:
        named.set("work")
        await asyncio.sleep(0)
        first = await main.here(where)
        both = await asyncio.gather(main.here(named.get), main.here(where))
        return [where(), first, *both]

    assert main.run(work(), alarmed=False) == [(True, True), (True, False), "work", (True, False)]
    assert main.run(work(), alarmed=True)[1] == (True, False)


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError("no"), ValueError), (StopIteration(), RuntimeError), (SystemExit(3), SystemExit)]
)
def test_what_a_blocking_part_raises_comes_to_who_waits_for_it(
    main: MainThread, raised: BaseException, seen: type[BaseException]
) -> None:
    notes = []

    def fail() -> None:
        raise raised

    async def work() -> None:
        try:
            await main.here(fail)
        except BaseException as error:
            notes.append(type(error))
            raise

    with pytest.raises(seen):
        main.run(work(), alarmed=False)
    assert notes == [seen]
    assert main.run(asyncio.sleep(0, "it goes on"), alarmed=False) == "it goes on"


def test_an_alarm_that_rings_while_the_loop_runs_is_heard_in_the_next_blocking_part(main: MainThread) -> None:
    heard: list[str] = []
    place = ["loop"]
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(place[0]))
    try:

        def blocking() -> str:
            place[0] = "blocking"
            return "done"

        async def work() -> str:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            await asyncio.sleep(0.01)
            assert heard == []
            place[0] = "between"
            returned: str = await main.here(blocking)
            return returned

        assert main.run(work(), alarmed=True) == "done"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ["between"]
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
