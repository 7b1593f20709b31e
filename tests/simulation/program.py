"""The program that is simulated: events of several kinds, and handlers that do with them what handlers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from streamtask import App, Context, Event, Retry, RetryLater
from streamtask.link import Link
from tests.simulation.loops import Loop
from tests.simulation.network import FaultyTransport, Server
from tests.simulation.oracle import Oracle

#: Seconds between two attempts, and how many there are.
BACKOFF = 0.5
ATTEMPTS = 3
#: Different keys of events that are de-duplicated.
KEYS = 5
#: Kinds of events, and how many of each among a hundred. One of "poison" is enough for a run.
KINDS = {
    "quick": 30,
    "long": 8,
    "raising": 12,
    "hopeless": 6,
    "later": 10,
    "emitting": 16,
    "keyed": 14,
    "blocking": 3,
    "poison": 1,
}
#: What workers read.
PLACES = [("jobs", "work"), ("jobs", "audit"), ("jobs", "order"), ("made", "work")]


class Job(Event, stream="jobs"):
    """Work of some kind."""

    n: int
    kind: str


class Keyed(Event, stream="jobs", key="key"):
    """Work that is done once for each key."""

    n: int
    key: int
    kind: str = "keyed"


class Made(Event, stream="made"):
    """What a handler emits."""

    n: int


class TroubleError(Exception):
    """A handler fails."""


@dataclass(frozen=True, slots=True)
class Connector:
    """Opens the way to the simulated server, for an app."""

    server: Server
    scheme: str = "memory"
    url: str = "memory://"
    address: str = "memory://"

    def open(self) -> FaultyTransport:
        """A transport that is not connected yet."""
        return self.server.transport()


class SimulatedLink(Link):
    """Leads to the simulated server."""

    def __init__(self, server: Server) -> None:
        super().__init__("memory://", "none")
        self._simulated = Connector(server)

    @property
    def connector(self) -> Any:
        return self._simulated


class SimulatedApp(App):
    """An app whose broker is the simulated server."""

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name, broker="memory://")
        self._link = SimulatedLink(server)


def kinds(chance: Random, events: int) -> list[str]:
    """The kind of each event."""
    drawn = chance.choices(list(KINDS), weights=list(KINDS.values()), k=events)
    poison = next((n for n, kind in enumerate(drawn) if kind == "poison"), None)
    return [kind if kind != "poison" or n == poison else "quick" for n, kind in enumerate(drawn)]


def runs_of(n: int, kind: str, place: str) -> int:
    """How often an event of a kind runs in a place where nothing goes wrong."""
    if place == "jobs/order":
        return 2 if fails_in_order(n) else 1
    return {"raising": ATTEMPTS, "hopeless": ATTEMPTS, "later": 2}.get(kind, 1) if place == "jobs/work" else 1


def fails_in_order(n: int) -> bool:
    """Whether an event fails once where events of one kind run one after the other."""
    return n % 9 == 4


def event_of(n: int, kind: str) -> Event:
    """The event of a number."""
    return Keyed(n=n, key=n % KEYS) if kind == "keyed" else Job(n=n, kind=kind)


class Conduct:
    """What the handlers do. `kill` ends the process of a loop."""

    def __init__(self, oracle: Oracle, lease: float, kill: Callable[[Loop], None]) -> None:
        self._oracle = oracle
        self._lease = lease
        self._kill = kill

    @contextmanager
    def noted(self, place: str, n: int) -> Iterator[None]:
        """Note the run of a handler. One that is cancelled, or dies, notes no end."""
        worker = _loop().process.name
        self._oracle.starts(n, place, worker)
        try:
            yield
        except Exception:
            self._oracle.ends(n, place, worker, returned=False)
            raise
        self._oracle.ends(n, place, worker, returned=True)

    async def work(self, job: Job, ctx: Context) -> None:
        """Do what the kind of the event says."""
        match job.kind:
            case "long":
                await self._go_on(job, ctx)
            case "blocking":
                _loop().block(1.5 * self._lease)
                await asyncio.sleep(0)
            case "poison":
                self._kill(_loop())
                await asyncio.Event().wait()
            case "raising" if ctx.attempt < ATTEMPTS:
                raise TroubleError
            case "hopeless":
                raise TroubleError
            case "later" if self._oracle.begun[job.n, "jobs/work"] < runs_of(job.n, "later", "jobs/work"):
                raise RetryLater(delay=BACKOFF)
            case "emitting":
                await asyncio.sleep(0.01 * (job.n % 3))
                ctx.emit(Made(n=job.n), delay=BACKOFF if job.n % 4 == 0 else None)

    async def _go_on(self, job: Job, ctx: Context) -> None:
        """Three steps of half a lease, from where an earlier run was."""
        begin = ctx.state or 0
        self._oracle.resumed(job.n, begin)
        for step in range(begin, 3):
            await asyncio.sleep(0.5 * self._lease)
            await ctx.checkpoint(step + 1)
            self._oracle.checkpointed(job.n, step + 1)


def make_app(server: Server, conduct: Conduct) -> SimulatedApp:
    """The app with its handlers."""
    app = SimulatedApp("work", server)
    retry = Retry(ATTEMPTS, backoff=BACKOFF)

    @app.on(retry=retry)
    async def work(job: Job, ctx: Context) -> None:
        with conduct.noted("jobs/work", job.n):
            await conduct.work(job, ctx)

    @app.on(retry=retry)
    async def once(keyed: Keyed) -> Made:
        with conduct.noted("jobs/work", keyed.n):
            await asyncio.sleep(0.05 * (keyed.n % 3))
        return Made(n=keyed.n)

    @app.on(retry=retry)
    async def made(made: Made) -> None:
        with conduct.noted("made/work", made.n):
            await asyncio.sleep(0)

    @app.on(Job, Keyed, group="audit", dedupe=False, retry=retry)
    async def audit(event: Any) -> None:
        with conduct.noted("jobs/audit", event.n):
            pass

    @app.on(Job, Keyed, group="order", dedupe=False, retry=retry, ordered_by="kind")
    async def in_order(event: Any, ctx: Context) -> None:
        with conduct.noted("jobs/order", event.n):
            await asyncio.sleep(0.01 * (event.n % 3))
            if fails_in_order(event.n) and ctx.attempt == 1:
                raise TroubleError

    return app


def seconds_of(kind: str, lease: float) -> float:
    """The longest that an event of a kind takes of a worker, its pauses between attempts included."""
    if kind in ("long", "blocking"):
        return 1.5 * lease
    return ATTEMPTS * (BACKOFF + 0.2)


def _loop() -> Loop:
    return asyncio.get_running_loop()  # type: ignore[return-value]
