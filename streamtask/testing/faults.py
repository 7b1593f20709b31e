"""Fault mode: handles one event again and again, each time under another fault, and tells what was not safe to repeat.

Every delivery may be repeated: its publisher sends it twice, its process dies, its owner was only paused. What a
handler leaves in the broker is one step with its ack and comes once; what it does outside comes as often as it is done.
Each trial has a broker of its own in memory, the outside as `reset` makes it, and a clock that stands still.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Literal, Self, TypedDict, Unpack, get_args

import msgspec

from streamtask import envelope as envelopes
from streamtask.app import App
from streamtask.broker import Run
from streamtask.errors import ConfigurationError
from streamtask.event import Event
from streamtask.handler import Handler
from streamtask.testing.clock import FrozenClock
from streamtask.testing.drainer import Drainer
from streamtask.testing.effects import Effect, Recorder
from streamtask.testing.memory import DeadLettersError, InMemoryApp, in_memory
from streamtask.testing.observing import Observe, Seen, comparable, differences, look
from streamtask.testing.points import Death, Fault, Interrupter, LostReplyError, Point, home_of
from streamtask.testing.report import Report, Trial
from streamtask.testing.store import MemoryConnector
from streamtask.testing.views import BrokerView
from streamtask.transport.values import Outcome, Retry

__all__ = ["Effect", "Faults", "Recorder", "Report", "check"]

#: Published twice under one id; the process dies; a call outside is carried out and fails; the owner is late.
Scenario = Literal["twice", "death", "failure", "pause"]
Reset = Callable[[], Awaitable[None] | None]
ALL: Final[tuple[Scenario, ...]] = get_args(Scenario)

_EVENT_ID: Final = "00000000-0000-4000-8000-000000000001"
#: Places of one kind that are tried; of more, some from beginning to end.
LIMIT: Final = 12
#: Times that the clock is moved to a retry before a trial is called endless.
_MOST_RETRIES: Final = 50
#: Real seconds that one trial may take.
PATIENCE: Final = 5.0
_TICK: Final = 0.001


class CheckOptions(TypedDict, total=False):
    """What `check` may be given beside app and event."""

    handler: Callable[..., Any] | None
    effects: Recorder | None
    observe: Observe | None
    reset: Reset | None
    scenarios: Collection[Scenario]
    limit: int
    patience: float


async def check(
    app: App,
    event: Event,
    *,
    handler: Callable[..., Any] | None = None,
    effects: Recorder | None = None,
    observe: Observe | None = None,
    reset: Reset | None = None,
    scenarios: Collection[Scenario] = ALL,
    limit: int = LIMIT,
    patience: float = PATIENCE,
) -> Report:
    """Handle an event under faults, and report which effects were not safe to repeat.

    `handler`: only this one; without, each that takes the event. `effects`: what records the calls to the outside.
    `observe`: a plain value that says how the outside stands, `reset`: puts it back to its beginning, before each
    trial; both may be async. `limit`: places of a kind at which a handler is interrupted. `patience`: real seconds that
    one trial may take.

    What is in the broker is looked at without being asked: events that were emitted, results, dead letters.

    Raises:
        ConfigurationError: the app has no such handler, or there is an `observe` and no `reset`.
        DeadLettersError: an undisturbed run fails.
        ValueError: `observe` gives two values for two undisturbed runs.
    """
    if observe is not None and reset is None:
        raise ConfigurationError(
            "observe needs reset: each trial is compared with one that begins with the same outside"
        )
    unknown = set(scenarios) - set(ALL)
    if unknown:
        raise ConfigurationError(f"scenarios are {', '.join(ALL)}; got {', '.join(sorted(unknown))}")
    handlers = _handlers_of(app, event, handler)
    outside = partial(_Check, effects=effects, observe=observe, reset=reset, patience=patience)
    checks = [outside(app, event, each) for each in handlers]
    for each in checks:
        await each.run(scenarios, limit)
    prefixes = [f"{_short_name(each)} " if len(handlers) > 1 else "" for each in handlers]
    return Report(
        subject=f"{', '.join(each.name for each in handlers)} on {type(event).__name__}",
        expected=list(checks[0].expected.told()),
        trials=[
            dataclasses.replace(trial, name=prefix + trial.name)
            for prefix, each in zip(prefixes, checks, strict=True)
            for trial in each.trials
        ],
        untried=[prefix + text for prefix, each in zip(prefixes, checks, strict=True) for text in each.untried],
    )


class Faults:
    """Fault mode for one app: `(await faults(event, effects=recorder)).assert_safe()`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._recorders: list[Recorder] = []

    async def __call__(self, event: Event, **options: Unpack[CheckOptions]) -> Report:
        """See `check`."""
        return await check(self._app, event, **options)

    def sync(self, event: Event, **options: Unpack[CheckOptions]) -> Report:
        """The same for tests that are no coroutines."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                return runner.run(self(event, **options))
        raise ConfigurationError("faults.sync would block the running event loop; write `await faults(event)`")

    def recorder(self) -> Recorder:
        """A recorder of effects; what it has wrapped is as it was at the end of the test."""
        self._recorders.append(Recorder())
        return self._recorders[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for recorder in reversed(self._recorders):
            recorder.restore()


class _Check:
    """The trials of one handler."""

    def __init__(
        self,
        app: App,
        event: Event,
        handler: Handler,
        *,
        effects: Recorder | None,
        observe: Observe | None,
        reset: Reset | None,
        patience: float,
    ) -> None:
        self.trials: list[Trial] = []
        self.untried: list[str] = []
        self._app = app
        self._event = event
        self._handler = handler
        self._effects = effects
        self._observe = observe
        self._reset = reset
        self._patience = patience
        self._started = FrozenClock().now()
        #: Whether a death has to run `finally` blocks: what it holds would never be let go.
        self._tidy = False
        self._file = home_of(handler.function)

    async def run(self, scenarios: Collection[Scenario], limit: int) -> None:
        """All trials."""
        self.expected = await self._undisturbed(Interrupter(self._file))
        counting = Interrupter(self._file, lines=True)
        self.expected = comparable(self.expected, await self._undisturbed(counting))
        points = counting.points
        if "twice" in scenarios:
            await self._try("published twice", None, Fault.DEATH, times=2)
        if "death" in scenarios:
            for point in _chosen(points, limit):
                await self._try_death(point)
        if "failure" in scenarios:
            await self._try_failures(points, limit)
        if "pause" in scenarios:
            await self._try_pauses(points, limit)

    async def _try_death(self, point: Point) -> None:
        try:
            await self._try(_died(point), point, Fault.DEATH)
        except TimeoutError as error:
            if self._tidy or point.kind not in ("wait", "effect"):
                raise TimeoutError(
                    f"{self._handler.name} {_died(point)}, and its next run does not end: it waits for what the first "
                    "held and nobody lets go, such as a lock that is not taken by `with`"
                ) from error
            self._tidy = True
            self.untried.append(
                f"deaths without `finally` blocks: {_at(point)}, it holds something that its next run waits for"
            )
            await self._try(_died(point), point, Fault.DEATH)

    async def _try_failures(self, points: Sequence[Point], limit: int) -> None:
        policy = self._handler.retry
        if policy.max_attempts == 1 or not policy.wants(LostReplyError()):
            self.untried.append("failures: its Retry lets none run again that is a ConnectionError")
            return
        for point in _chosen(points, limit, kinds=("effect", "end")):
            await self._try(_failed(point), point, Fault.FAILURE)

    async def _try_pauses(self, points: Sequence[Point], limit: int) -> None:
        for point in _chosen([each for each in points if each.can_wait], limit):
            try:
                await self._try(_paused(point), point, Fault.PAUSE)
            except TimeoutError:
                self.untried.append(f"pauses: paused {_at(point)}, it holds something that another run of it waits for")
                return

    async def _try(self, name: str, point: Point | None, fault: Fault, *, times: int = 1) -> None:
        lines = point is not None and point.kind == "line"
        interrupter = Interrupter(self._file, point, fault, lines=lines, tidy=self._tidy)
        run = self._run_late if fault is Fault.PAUSE else self._run
        try:
            async with self._fresh() as memory:
                await self._publish(times)
                await run(memory, interrupter)
                seen = await self._look(memory)
        finally:
            interrupter.bury()
        self.trials.append(Trial(name, list(differences(self.expected, seen))))

    # ── one trial ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _undisturbed(self, interrupter: Interrupter) -> Seen:
        async with self._fresh() as memory:
            await self._publish(1)
            await self._run(memory, interrupter)
            if memory.dead:
                raise DeadLettersError(memory.dead)
            return await self._look(memory)

    @asynccontextmanager
    async def _fresh(self) -> AsyncIterator[InMemoryApp]:
        if self._reset is not None:
            done = self._reset()
            if inspect.isawaitable(done):
                await done
        if self._effects is not None:
            self._effects.clear()
        with in_memory(self._app, clock=FrozenClock(self._started), patience=self._patience) as memory:
            yield memory

    async def _publish(self, times: int) -> None:
        item = self._app.broker.outgoing(self._event, _EVENT_ID, envelopes.new_trace_id())
        await self._app.transport.publish([item] * times)

    async def _run(self, memory: InMemoryApp, interrupter: Interrupter) -> None:
        async with memory.drainer(self._faulty(interrupter)) as drainer:
            await self._to_the_end(memory, drainer)

    async def _run_late(self, memory: InMemoryApp, interrupter: Interrupter) -> None:
        """One owner is paused, another one takes the event over, and then the first goes on."""
        async with memory.drainer(self._faulty(interrupter)) as late, memory.drainer() as other:
            first = asyncio.create_task(late.run())
            paused = asyncio.create_task(interrupter.reached.wait())
            try:
                await asyncio.wait((first, paused), return_when=asyncio.FIRST_COMPLETED)
                await late.hand_back()
                await self._to_the_end(memory, other)
                interrupter.go_on()
                await first
            finally:
                # Also where the other one waits for what the first one holds.
                interrupter.go_on()
                paused.cancel()
                await asyncio.gather(first, paused, return_exceptions=True)

    async def _to_the_end(self, memory: InMemoryApp, drainer: Drainer) -> None:
        await drainer.run()
        for _ in range(_MOST_RETRIES):
            due = await drainer.next_retry()
            if due is None:
                return
            memory.clock.advance(max(due, _TICK))
            await drainer.run()

    async def _look(self, memory: InMemoryApp) -> Seen:
        return await look(memory, _EVENT_ID, effects=self._effects, observe=self._observe)

    def _faulty(self, interrupter: Interrupter) -> Callable[..., Drainer]:
        return partial(_Faulty, handler=self._handler, interrupter=interrupter)


class _Faulty(Drainer):
    """A worker of which one run of one handler is interrupted: the first one of the event."""

    def __init__(
        self, app: App, memory: MemoryConnector, *, concurrency: int, handler: Handler, interrupter: Interrupter
    ) -> None:
        super().__init__(app, memory, concurrency=concurrency)
        self.broker = _Mortal(app.broker)
        self._handler = handler
        self._interrupter = interrupter
        self._is_done = False

    async def execute(self, run: Run) -> Outcome | None:
        """Run a handler; None: its process has died, and another one has the event."""
        if not self._is_first(run):
            return await super().execute(run)
        try:
            outcome = await super().execute(self._tampered(run))
        except Death:
            await self.hand_back()
            return None
        return None if outcome is None else _at_once(outcome)

    async def execute_batch(
        self, runs: Sequence[Run], end: Callable[[Run, Outcome], None]
    ) -> list[tuple[Run, Outcome]]:
        """The same for a batch handler; nothing: its process has died."""
        if not self._is_first(runs[0]):
            return await super().execute_batch(runs, end)
        try:
            ended = await super().execute_batch([self._tampered(run) for run in runs], end)
        except Death:
            await self.hand_back()
            return []
        return [(run, _at_once(outcome)) for run, outcome in ended]

    def _is_first(self, run: Run) -> bool:
        is_it = run.handler is self._handler and run.envelope.event_id == _EVENT_ID and not self._is_done
        self._is_done |= is_it
        return is_it

    def _tampered(self, run: Run) -> Run:
        handler = run.handler
        # In this process, where it can be interrupted.
        pool: Literal["async", "thread"] = "async" if handler.is_async else "thread"
        function = self._interrupter.wrapped(handler.function)
        return msgspec.structs.replace(run, handler=dataclasses.replace(handler, function=function, pool=pool))


def _at_once(outcome: Outcome) -> Outcome:
    """An outcome without its delay: the clock stays where it is in every trial."""
    return msgspec.structs.replace(outcome, delay=0.0) if isinstance(outcome, Retry) else outcome


class _Mortal(BrokerView):
    """A broker's view that lets a death through."""

    def fail(self, run: Run, error: BaseException) -> Outcome:
        """As a broker does; of a process that has died there is nothing to say."""
        if isinstance(error, Death):
            raise error
        return super().fail(run, error)

    def again(self, run: Run, error: BaseException) -> Retry:
        """The same for an event that has failed in company."""
        if isinstance(error, Death):
            raise error
        return super().again(run, error)


# ── which places, and what they are called ────────────────────────────────────────────────────────────────────────


def _chosen(
    points: Sequence[Point], limit: int, kinds: Collection[str] = ("line", "wait", "effect", "end")
) -> Iterator[Point]:
    """Of each kind at most so many, from beginning to end."""
    for kind in kinds:
        # Before the first line nothing has been done.
        found = [point for point in points if point.kind == kind and (kind, point.number) != ("line", 0)]
        if len(found) > limit:
            step = (len(found) - 1) / max(1, limit - 1)
            found = [found[round(index * step)] for index in range(limit)]
        yield from found


def _at(point: Point) -> str:
    words = {"line": "before", "wait": "while it waited at", "effect": "right after", "end": ""}
    return f"{words[point.kind]} {point.where}".strip()


def _died(point: Point) -> str:
    return f"died {_at(point)}"


def _failed(point: Point) -> str:
    if point.kind == "end":
        return "failed at its very end"
    return f"{point.where} was done, and its reply was lost"


def _paused(point: Point) -> str:
    return f"was paused {_at(point)}, while another worker handled the event"


def _handlers_of(app: App, event: Event, function: Callable[..., Any] | None) -> list[Handler]:
    found = [each for each in app.handlers if type(event) in each.events and function in (None, each.function)]
    if not found:
        which = "no handler" if function is None else f"no handler {getattr(function, '__qualname__', function)!r}"
        raise ConfigurationError(f"the app {app.name!r} has {which} of {type(event).__name__}")
    return found


def _short_name(handler: Handler) -> str:
    return handler.name.rpartition(".")[2]
