"""An app in memory: the handlers of a test's app on a broker of the test's own, whose time stands still.

Nothing runs by itself: `drain` handles what is ready, in this task and in order, and returns when nothing is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

from streamtask.app import App
from streamtask.context import PublishOptions
from streamtask.envelope import Envelope
from streamtask.errors import ConfigurationError
from streamtask.event import Event, load
from streamtask.loading import event_class
from streamtask.testing.clock import FrozenClock
from streamtask.testing.drainer import Drainer
from streamtask.testing.eager import Handled, handle
from streamtask.testing.rules import Rules
from streamtask.testing.store import MemoryConnector
from streamtask.transport.memory.store import fields_of
from streamtask.transport.values import DeadLetter, Delivery

EventT = TypeVar("EventT", bound=Event)
_T = TypeVar("_T")

#: Real seconds that a drain may take.
PATIENCE = 30.0
#: Seconds by which time passes at least: the streams' own unit.
_TICK = 0.001


class DeadLettersError(AssertionError):
    """Events became dead letters, which the test did not expect."""

    def __init__(self, letters: Sequence[DeadLetter]) -> None:
        told = "\n\n".join(_told(letter) for letter in letters)
        what = "1 event became a dead letter" if len(letters) == 1 else f"{len(letters)} events became dead letters"
        super().__init__(f"{what}; where that is expected: drain(expect_dead=True)\n\n{told}")
        self.letters = letters


class InMemoryApp:
    """An app on a memory of its own. Made by `in_memory`."""

    def __init__(
        self, app: App, connector: MemoryConnector, clock: FrozenClock, *, concurrency: int, patience: float
    ) -> None:
        #: The app itself: connected, so that it can publish.
        self.app = app
        #: Its time: `clock.advance(60)`.
        self.clock = clock
        #: What all of it is kept in: for drainers.
        self.connector = connector
        self._rules = Rules(app, connector)
        self._concurrency = concurrency
        self._patience = patience
        #: The blocking twin, for tests that are no coroutines.
        self.sync = BlockingInMemoryApp(self)

    # ── doing ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""
        return await self.app.publish(event, **options)

    async def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""
        return await self.app.publish_many(events, priority=priority)

    async def drain(self, *, expect_dead: bool = False) -> list[DeadLetter]:
        """Handle what is ready: new events, retries and delayed events that are due, and what all that leads to.

        Returns when nothing is left, with the dead letters that were written. What is due later stays, until the clock
        has been moved. Worker lifespans are entered at the beginning and left at the end.

        Raises:
            DeadLettersError: events became dead letters, with their tracebacks; not with `expect_dead`.
            AssertionError: with `expect_dead`, and none did.
            TimeoutError: handlers still run after 30 real seconds; it names them.
        """
        return await self.run_for(0, expect_dead=expect_dead)

    async def run_for(self, seconds: float, *, expect_dead: bool = False) -> list[DeadLetter]:
        """Let time pass: drain, and again at each moment at which something is due within so many seconds.

        Returns and raises as `drain`.
        """
        until, known = self.clock.now() + seconds, {letter.id for letter in self.dead}
        async with self.drainer() as drainer:
            while True:
                tick = await self._rules.tick()
                await drainer.run()
                moments = [moment for moment in (tick, await drainer.next_due()) if moment is not None]
                step = _ticks(min(moments, default=math.inf))
                if self.clock.now() + step > until + _TICK / 2:
                    break
                self.clock.advance(step)
        self.clock.advance(max(0.0, until - self.clock.now()))
        letters = [letter for letter in self.dead if letter.id not in known]
        if letters and not expect_dead:
            raise DeadLettersError(letters)
        if expect_dead and not letters:
            raise AssertionError("no event became a dead letter")
        return letters

    async def eager(self, handler: Callable[..., Any], event: Event, *, attempt: int = 1, state: Any = None) -> Handled:
        """Run one handler on an event, here and now, through all that is around it; nothing is published.

        `attempt` and `state`: what it finds in its context.

        Raises:
            ConfigurationError: it is no handler of this event in this app.
            Exception: what the handler raised.
        """
        return await handle(self.app, handler, event, attempt=attempt, state=state)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def published(self) -> list[Event]:
        """What was published and emitted, by whomever, in the order in which it came; delayed events from when due."""
        return [event for _, event in self._events()]

    def published_of(self, cls: type[EventT]) -> list[EventT]:
        """The same of one class."""
        return [event for event in self.published if isinstance(event, cls)]

    def envelopes_of(self, cls: type[Event]) -> list[Envelope]:
        """The envelopes of the same: ids, causes, traces, headers."""
        return [envelope for envelope, event in self._events() if isinstance(event, cls)]

    @property
    def scheduled(self) -> list[tuple[datetime, Event]]:
        """Delayed events that are not due yet, and when they will be; soonest first."""
        store = self.connector.store
        with store.lock:
            waiting = [delayed for state in store.streams.values() for delayed in state.delayed.values()]
        waiting.sort(key=lambda delayed: delayed.due)
        found = []
        for delayed in waiting:
            stored = self._stored(Delivery(delayed.item.stream, "", "", "", fields_of(delayed.item)))
            if stored is not None:
                found.append((datetime.fromtimestamp(delayed.due, UTC), stored[1]))
        return found

    @property
    def dead(self) -> list[DeadLetter]:
        """Every dead letter that there is."""
        return self.connector.store.letters

    def _events(self) -> Iterator[tuple[Envelope, Event]]:
        for delivery in list(self.connector.store.arrived):
            # A replay is no second publication.
            stored = self._stored(delivery) if delivery.only is None else None
            if stored is not None:
                yield stored

    def _stored(self, delivery: Delivery) -> tuple[Envelope, Event] | None:
        """An entry as an event; None: it is of a type that has no class here."""
        envelope = self.app.broker.decode(delivery)
        try:
            # Not the app's alone: what a child process emits, the app of this one has never seen.
            cls = event_class(self.app, envelope.event_type)
        except ConfigurationError:
            return None
        return envelope, load(cls, envelope.payload_bytes, envelope.schema_version)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def drainer(self, make: Callable[..., Drainer] = Drainer) -> AsyncIterator[Drainer]:
        """What handles events, for no longer than a test has patience."""
        drainer = make(self.app, self.connector, concurrency=self._concurrency)
        try:
            async with asyncio.timeout(self._patience) as timer, drainer:
                yield drainer
        except TimeoutError:
            if not timer.expired():
                raise
            names = ", ".join(sorted({run.handler.name for run in drainer.running})) or "what is around handlers"
            raise TimeoutError(
                f"after {self._patience:g} real seconds this still runs: {names}. A handler that waits for another one "
                "needs in_memory(app, concurrency=2) or more; what it sleeps is real time"
            ) from None


class BlockingInMemoryApp:
    """`memory.sync`: the same for tests that are no coroutines. All of it runs in one event loop, in this thread."""

    def __init__(self, memory: InMemoryApp) -> None:
        self._memory = memory
        # Its own: the loop of the test framework stays what it is.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""
        return self.run(self._memory.publish(event, **options))

    def publish_many(self, events: Sequence[Event], *, priority: str | None = None) -> list[str]:
        """See `App.publish_many`."""
        return self.run(self._memory.publish_many(events, priority=priority))

    def drain(self, *, expect_dead: bool = False) -> list[DeadLetter]:
        """See `InMemoryApp.drain`."""
        return self.run(self._memory.drain(expect_dead=expect_dead))

    def run_for(self, seconds: float, *, expect_dead: bool = False) -> list[DeadLetter]:
        """See `InMemoryApp.run_for`."""
        return self.run(self._memory.run_for(seconds, expect_dead=expect_dead))

    def eager(self, handler: Callable[..., Any], event: Event, *, attempt: int = 1, state: Any = None) -> Handled:
        """See `InMemoryApp.eager`."""
        return self.run(self._memory.eager(handler, event, attempt=attempt, state=state))

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of the test's own in that loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._runner.run(coroutine)
        coroutine.close()
        raise ConfigurationError("memory.sync would block the running event loop; write `await memory.drain()`, ...")

    def close(self) -> None:
        """End the loop."""
        self._runner.close()


async def eager(
    handler: Callable[..., Any], event: Event, *, app: App | None = None, attempt: int = 1, state: Any = None
) -> Handled:
    """Run one handler on an event, without a stream: what it returned, emitted and checkpointed.

    `app`: the app that it is a handler of, with the options that it has there; without one it has none. `attempt` and
    `state`: what it finds in its context.

    Raises:
        ConfigurationError: it is no handler of this event in this app.
        Exception: what the handler raised.
    """
    if app is None:
        app = App("test", broker="memory://")
        app.on(type(event))(handler)
    with in_memory(app) as memory:
        return await memory.eager(handler, event, attempt=attempt, state=state)


@contextmanager
def in_memory(
    app: App, *, clock: FrozenClock | None = None, concurrency: int = 1, patience: float = PATIENCE
) -> Iterator[InMemoryApp]:
    """Move an app to a memory of its own, connected, until the end of the block; then it has its own broker again.

    `concurrency`: handlers at once; with 1, events are handled one after the other, in the order of their stream.
    `patience`: real seconds that one drain may take.
    """
    clock = clock or FrozenClock()
    connector = MemoryConnector(clock)
    told_by, app.broker.clock = app.broker.clock, clock
    try:
        with app.lent(connector):
            memory = InMemoryApp(app, connector, clock, concurrency=concurrency, patience=patience)
            try:
                yield memory
            finally:
                memory.sync.close()
    finally:
        app.broker.clock = told_by


def _ticks(seconds: float) -> float:
    """Seconds in whole ticks, one at least: a moment is reached, also where it was computed a little short."""
    return max(1, math.ceil(round(seconds / _TICK, 3))) * _TICK if math.isfinite(seconds) else seconds


def _told(letter: DeadLetter) -> str:
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    head = f"{letter.event_type or 'an entry'} of {letter.stream} in group {letter.group} ({letter.reason}, {attempts})"
    return f"{head}: {letter.error}\n{letter.traceback}".rstrip()
