"""The server, and what lies between it and a worker: commands and replies that come late, or never.

The server is a `MemoryStore` in a process of its own; a `FaultyTransport` is a worker's way to it, in place of the
transport that the worker would open. A command runs at the server whether or not its sender lives to see the reply.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from streamtask.errors import StoreFullError, TransportError
from streamtask.transport.memory import MemoryStore, MemoryTransport
from streamtask.transport.memory.store import Expiring
from streamtask.transport.values import Dead, Delivery, Done, Outcome, Outgoing
from tests.simulation.loops import EPOCH, Loop, Process, Scheduler
from tests.simulation.options import Faults
from tests.simulation.oracle import Oracle

#: Seconds after which a command without a reply has failed, as with the real client; a blocking one waits longer.
_TIMEOUT = 5.0
_BLOCKING = ("fetch", "read", "news")
#: Questions: a replica answers them.
_READS = frozenset(
    {"connect", "marked", "interest", "stats", "read", "lost_owners", "streams", "count", "page", "news"}
)
_BETWEEN_SNAPSHOTS = 0.5


class Command:
    """One command on its way, and its reply."""

    def __init__(self, verb: str, run: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.verb = verb
        self.run = run
        #: The loop of the thread that asks.
        self.loop: Loop = asyncio.get_running_loop()  # type: ignore[assignment]
        self.answer: asyncio.Future[Any] = self.loop.create_future()
        #: At the server.
        self.task: asyncio.Task[None] | None = None

    def reply(self, result: Any) -> None:
        """What the sender sees; nothing, if it has given up or died."""
        self.loop.call_soon_threadsafe(self._reply, result)

    def _reply(self, result: Any) -> None:
        if self.answer.done():
            return
        if isinstance(result, TransportError):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Server:
    """The one server. `faults` may be changed at any time."""

    def __init__(self, scheduler: Scheduler, chance: Random, oracle: Oracle, faults: Faults) -> None:
        self.faults = faults
        self.store = MemoryStore()
        #: Commands that came, by who sent them.
        self.commands: Counter[str] = Counter()
        self._scheduler = scheduler
        self._chance = chance
        self._oracle = oracle
        self._open: dict[Command, None] = {}
        self._away_until = 0.0
        self._readonly_until = 0.0
        self._full_until = 0.0
        self._generation = 0
        self._snapshot: tuple[int, Any] | None = None
        self._loop: Loop
        task = scheduler.process("server").thread("main", self._replicate())
        self._loop = task.get_loop()  # type: ignore[assignment]

    def clock(self) -> float:
        """The time of day at the server."""
        return EPOCH + self._scheduler.now

    def transport(self) -> FaultyTransport:
        """A worker's or a publisher's way to the server."""
        return FaultyTransport(self, MemoryTransport(self.store, clock=self.clock))

    # ── trouble ───────────────────────────────────────────────────────────────────────────────────────────────

    def go_away(self, seconds: float) -> None:
        """Restart, with all data: every connection breaks, none can be made for some seconds."""
        self._away_until = self._scheduler.now + seconds
        self.store.run_id = f"run {self._scheduler.now}"
        self._generation += 1
        self._break(lambda _: True)

    def fail_over(self, seconds: float) -> None:
        """Be replaced by one that has not received the last writes."""
        if self._snapshot is not None:
            taken_at, (streams, beats) = self._snapshot
            self._snapshot = None
            self.store.streams, self.store.beats = streams, beats
            self._oracle.rolled_back(taken_at)
        self.go_away(seconds)

    def forget(self, seconds: float) -> None:
        """Come back empty."""
        self._snapshot = None
        self.store.streams, self.store.beats = {}, Expiring()
        self._oracle.rolled_back(0)
        self.go_away(seconds)

    def refuse_writes(self, seconds: float) -> None:
        """Be a replica for some time."""
        self._readonly_until = self._scheduler.now + seconds

    def be_full(self, seconds: float) -> None:
        """Take no more events for some time."""
        self._full_until = self._scheduler.now + seconds

    def hang_up(self, process: Process) -> list[str]:
        """The connections of a process break: it is dead, or the network cut them. What it had asked for."""
        return self._break(lambda command: command.loop.process is process)

    def heal(self) -> None:
        """All is well from now on."""
        self.faults = Faults()
        self._away_until = self._readonly_until = self._full_until = self._scheduler.now

    def _break(self, concerned: Callable[[Command], bool]) -> list[str]:
        broken = [command for command in self._open if concerned(command)]
        for command in broken:
            del self._open[command]
            command.reply(TransportError("the connection was lost"))
            if command.verb in _BLOCKING and command.task is not None:
                # The server notices a little later, and may hand something over until then.
                self._loop.call_later(self._chance.uniform(0, 0.05), command.task.cancel)
        return [command.verb for command in broken]

    async def _replicate(self) -> None:
        while True:
            if self.faults.failover_every:
                self._snapshot = self._oracle.moment, copy.deepcopy((self.store.streams, self.store.beats))
            await asyncio.sleep(self._chance.uniform(0, 2 * _BETWEEN_SNAPSHOTS))

    # ── commands ──────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: Command, arrives_in: float) -> None:
        """A command is on its way."""
        self.commands[command.loop.process.name] += 1
        self._open[command] = None
        command.task = self._loop.create_task(self._serve(command, arrives_in))

    def give_up(self, command: Command) -> None:
        """Its sender waits no more, and closes the connection."""
        if self._open.pop(command, self) is None and command.verb in _BLOCKING and command.task is not None:
            self._loop.call_later(self._chance.uniform(0, 0.05), command.task.cancel)

    async def _serve(self, command: Command, arrives_in: float) -> None:
        generation = self._generation
        if arrives_in:
            await asyncio.sleep(arrives_in)
        result = await self._result(command, generation)
        self._oracle.trace(f"{command.loop.name} {command.verb} -> {_summary(result)}")
        if self._chance.random() < self.faults.delayed:
            await asyncio.sleep(self._chance.uniform(0, 0.25))
        if self._chance.random() < self.faults.reply_lost:
            result = TransportError("the connection was lost before the reply")
        if self._open.pop(command, self) is None:
            command.reply(result)

    async def _result(self, command: Command, generation: int) -> Any:
        now, faults = self._scheduler.now, self.faults
        if now < self._away_until or generation != self._generation:
            return TransportError("connection refused")
        if self._chance.random() < faults.command_lost:
            return TransportError("the connection was lost")
        if now < self._readonly_until and command.verb not in _READS:
            return TransportError("READONLY You can't write against a read only replica.")
        if self._chance.random() < faults.script_error:
            return TransportError("ERR Error running script")
        try:
            return await command.run()
        except TransportError as error:
            return error

    # ── what a batch verb gives for each of its items ─────────────────────────────────────────────────────────

    async def publish(self, transport: MemoryTransport, items: list[Outgoing]) -> list[str | Exception]:
        """Store events; a server that is full refuses each."""
        if self._scheduler.now < self._full_until:
            return [StoreFullError("OOM command not allowed", event_id=item.event_id) for item in items]
        return await transport.publish(items)

    async def settle(self, transport: MemoryTransport, batch: list[tuple[Any, Outcome]]) -> list[Any]:
        """Commit outcomes; some are refused singly."""
        refused = {place for place, (_, outcome) in enumerate(batch) if self._refuses(outcome)}
        taken = [place for place in range(len(batch)) if place not in refused]
        verdicts: list[Any] = [TransportError("failed: OOM command not allowed")] * len(batch)
        for place, verdict in zip(taken, await transport.settle([batch[place] for place in taken]), strict=True):
            verdicts[place] = verdict
            self._oracle.settled(*batch[place], verdict)
        return verdicts

    def _refuses(self, outcome: Outcome) -> bool:
        if self._chance.random() < self.faults.outcome_refused:
            return True
        takes_memory = isinstance(outcome, Dead) or (isinstance(outcome, Done) and bool(outcome.emits))
        return takes_memory and self._scheduler.now < self._full_until


class Verbs:
    """The verbs of one part of the port, each of which goes over the network."""

    def __init__(self, transport: FaultyTransport, part: Any) -> None:
        self._transport = transport
        self._part = part

    def __getattr__(self, verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        run = getattr(self._part, verb)

        async def ask(*args: Any, **options: Any) -> Any:
            wait = options.get("wait", options.get("within", 0.0))
            return await self._transport.ask(verb, lambda: run(*args, **options), wait)

        setattr(self, verb, ask)
        return ask


class FaultyTransport(Verbs):
    """A transport whose every command may be late, lost, or run without a reply."""

    def __init__(self, server: Server, memory: MemoryTransport) -> None:
        super().__init__(self, memory)
        self.capabilities = memory.capabilities
        self.recovery = Verbs(self, memory.recovery)
        self.gates = Verbs(self, memory.gates)
        self.cancellations = Verbs(self, memory.cancellations)
        self.checkpoints = Verbs(self, memory.checkpoints)
        self.workflows = Verbs(self, memory.workflows)
        self.results = Verbs(self, memory.results)
        self.cancellations = Verbs(self, memory.cancellations)
        self.rates = Verbs(self, memory.rates)
        self.schedule = Verbs(self, memory.schedule)
        self.retention = Verbs(self, memory.retention)
        self.dead_letters = Verbs(self, memory.dead_letters)
        self.inspection = Verbs(self, memory.inspection)
        self.outbox = memory.outbox
        self.storage = Verbs(self, memory.storage)
        self._server = server
        self._memory = memory
        #: When the last command on each connection arrives: those on one connection overtake each other never.
        self._arrival: dict[str, float] = {}

    async def close(self) -> None:
        """Nothing that could fail."""

    def together(self, streams: list[str]) -> list[list[str]]:
        """No command: what an engine knows by itself."""
        return self._memory.together(streams)

    async def publish(self, items: list[Outgoing]) -> Any:
        return await self.ask("publish", lambda: self._server.publish(self._memory, items))

    async def settle(self, settlements: list[tuple[Any, Outcome]]) -> Any:
        return await self.ask("settle", lambda: self._server.settle(self._memory, settlements))

    async def ask(self, verb: str, run: Callable[[], Coroutine[Any, Any, Any]], wait: float = 0.0) -> Any:
        """One command and its reply."""
        command = Command(verb, run)
        self._server.receive(command, self._travel(verb, command.loop.time()))
        try:
            async with asyncio.timeout(wait + _TIMEOUT):
                return await command.answer
        except TimeoutError:
            # A new connection is made for what comes next: it may overtake.
            self._arrival.clear()
            raise TransportError("no reply in time") from None
        finally:
            self._server.give_up(command)

    def _travel(self, verb: str, now: float) -> float:
        """Seconds until a command arrives."""
        chance, faults = self._server._chance, self._server.faults
        travel = 0.0
        if chance.random() < faults.delayed:
            travel = chance.uniform(0, 0.25)
        if verb != "publish" and chance.random() < faults.command_late:
            # Not of a publish: an event that is appended after it was published again stands there twice, which no
            # plain append can tell (docs/explanation/delivery.md, honest limits).
            travel = chance.uniform(_TIMEOUT, 3 * _TIMEOUT)
        line = verb if verb in ("publish", *_BLOCKING) else "commands"
        arrival = max(now + travel, self._arrival.get(line, 0.0))
        self._arrival[line] = arrival
        return arrival - now


def _summary(result: Any) -> str:
    if isinstance(result, TransportError):
        return f"! {result}"
    if isinstance(result, list):
        return " ".join(each.entry_id if isinstance(each, Delivery) else type(each).__name__ for each in result)
    return str(result) if isinstance(result, int | float | None) else type(result).__name__
