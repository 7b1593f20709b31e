"""The inside of a child process that runs handlers: the app, its broker's rules, and the handler, one at a time.

It commits nothing: emits, marks and dead letters travel back as an outcome for the worker, which holds the lease. The
app's worker lifespans are entered before the first event, and left when the worker is done with the child.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from streamtask.batches import BatchCall
from streamtask.broker import Run
from streamtask.context import BatchContext, Context, Notes, decode_state
from streamtask.errors import ConfigurationError, LeaseLostError, TransportError
from streamtask.event import Event
from streamtask.lifespan import Lifespans
from streamtask.middleware import Middleware, around_consume, consume
from streamtask.telemetry import logs
from streamtask.transport.values import Delivery, Outcome, Progress, Release
from streamtask.worker.blocking import MainThread
from streamtask.worker.isolation import (
    KEPT,
    SUSPECT,
    Note,
    Request,
    decode_request,
    encode_note,
    encode_outcome,
    encode_outcomes,
)
from streamtask.worker.provider import Provider
from streamtask.worker.sandbox_child import Parent, load_main
from streamtask.worker.timeouts import SoftTimeout

log = logging.getLogger(__name__)

#: Seconds after which is tried again what could not run because the broker was out of reach.
_PAUSE = 1.0


class _Inside:
    """What one child process is made of: its app, and a loop for async handlers that lives as long as the process."""

    def __init__(self) -> None:
        self._app: Any = None
        self._runner = asyncio.Runner()
        self._connected = False
        self._lifespans: Lifespans | None = None
        self._middleware: tuple[Middleware, ...] = ()
        self._main = MainThread(self._runner)
        self._provider: Any = None
        self._notes: Notes | None = None

    def attach(self, parent: Parent) -> None:
        """Leave what handlers have come to with the worker."""
        self._notes = _Notes(parent)

    def prepare(self, arguments: Mapping[str, str]) -> None:
        """Load the app, and make what its handlers need."""
        if arguments["log_format"]:
            logs.configure("json" if arguments["log_format"] == "json" else "text")
        home, *_ = [_module(place) for place in arguments["modules"].split("\n")]
        self._app = getattr(home, arguments["attribute"])
        if arguments["broker"].startswith("memory://"):
            self._app.cut_off("memory:// lives in the worker's process; a handler in another one cannot publish to it")
            self._connected = True
        else:
            self._app.use_broker(arguments["broker"])
        self._middleware = around_consume(self._app.middleware)
        self._provider = Provider(self._app, self._app.dependency_overrides, self._main.here)
        # A suspect may be anybody's event, the others are those of the process pool.
        handlers = [each for each in self._app.handlers if each.pool == "process" or arguments["runs"] == SUSPECT]
        plans = [each.dependencies for each in handlers if each.dependencies is not None]
        around = self._middleware or any(each.middleware for each in handlers)
        if self._app.worker_lifespans or plans or around:
            # Now, and not within the time of the first event.
            while not self._connect():
                time.sleep(_PAUSE)
        if self._app.worker_lifespans:
            self._lifespans = Lifespans(self._app, self._app.worker_lifespans)
            self._runner.run(self._lifespans.enter())
        if plans:
            self._main.run(self._provider.prepare(plans), alarmed=False)

    def finish(self) -> None:
        """Put away what was made."""
        if self._provider is not None:
            self._main.run(self._provider.close(), alarmed=False)
        if self._lifespans is not None:
            self._runner.run(self._lifespans.leave())

    def handle(self, request: bytes) -> bytes:
        """Handle one delivery, or a batch of them; the outcome, or that of each."""
        asked = decode_request(request)
        if isinstance(asked, list):
            return encode_outcomes(self._handle_batch(asked))
        plan = self._app.broker.plan(asked.delivery(), {})
        if not isinstance(plan, Run):
            return encode_outcome(plan)
        envelope = plan.envelope
        if asked.payload is not None:
            envelope = msgspec.structs.replace(envelope, payload_json=msgspec.Raw(asked.payload))
        run = msgspec.structs.replace(plan, alone=asked.alone, envelope=envelope)
        token = logs.bind((run.envelope, run.delivery))
        try:
            return encode_outcome(self._outcome(run, asked.state))
        finally:
            logs.unbind(token)

    def _handle_batch(self, asked: list[Request]) -> list[Outcome]:
        """Handle deliveries in one call."""
        broker = self._app.broker
        plans = [broker.plan(each.delivery(), {}) for each in asked]
        runs = [plan for plan in plans if isinstance(plan, Run)]
        call = BatchCall(broker, runs)
        if call.members:
            first = call.runs[0]
            token = logs.bind((first.envelope, first.delivery))
            try:
                call.ended += zip(call.runs, self._outcomes(call), strict=True)
            finally:
                logs.unbind(token)
        outcomes = {id(run): outcome for run, outcome in call.ended}
        return [outcomes[id(plan)] if isinstance(plan, Run) else plan for plan in plans]

    def _outcomes(self, call: BatchCall) -> list[Outcome]:
        runs = call.runs
        handler = runs[0].handler
        context = BatchContext([run.envelope for run in runs], [run.delivery.attempt for run in runs], self._app)
        try:
            if handler.dependencies is not None or handler.is_async:
                if not self._connect():
                    return [Release(_PAUSE) for _ in runs]
                coroutine = self._awaited(runs[0], call.events, context)
                returned = self._main.run(coroutine, alarmed=not handler.is_async)
            else:
                returned = handler.call(call.events, context)
            return call.succeed(context, returned)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            return call.fail(context, error)

    def _outcome(self, run: Run, state: bytes | None) -> Outcome:
        broker = self._app.broker
        try:
            event = broker.event(run)
            mark = broker.mark(run, event)
            context = Context(run.envelope, run.delivery.attempt, self._app, run.delivery, self._notes)
            context.state = decode_state(state)
            handler, middleware = run.handler, (*self._middleware, *run.handler.middleware)
            if middleware or handler.dependencies is not None or handler.is_async:
                if not self._connect():
                    return Release(_PAUSE)
                coroutine = consume(middleware, event, context, lambda event: self._awaited(run, event, context))
                # The alarm is that of plain handlers; one that is awaited keeps its own time.
                returned = self._main.run(coroutine, alarmed=not handler.is_async)
            else:
                returned = handler.call(event, context)
            outcome: Outcome = broker.succeed(run, context, returned, mark)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            outcome = broker.fail(run, error)
        return outcome

    async def _awaited(self, run: Run, event: Event | list[Event], context: Context | BatchContext) -> Any:
        """What the handler returns; a plain one is called in the main thread, with no loop running in it."""
        handler, needs, here = run.handler, run.handler.dependencies, self._main.here
        if not handler.is_async:
            if needs is None:
                return await here(functools.partial(handler.call, event, context))
            call = functools.partial(handler.call_with, event, context)
            return await self._provider.blocked(needs, event, context, call, blocking=here, last=here)
        if needs is None:
            coroutine = handler.call(event, context)
        else:
            call = functools.partial(handler.call_with, event, context)
            coroutine = self._provider.awaited(needs, event, context, call, blocking=here)
        soft = handler.timeout.soft
        return await (coroutine if soft is None else SoftTimeout(coroutine, soft))

    def _connect(self) -> bool:
        """Connect the app for `await ctx.app.publish`, once; whether it is."""
        if not self._connected:
            try:
                self._runner.run(self._app.__aenter__())
            except TransportError as error:
                log.warning("worker.waits_for_broker", extra={"error": str(error), "again_in": _PAUSE})
                return False
            self._connected = True
        return True


class _Notes:
    """`Notes` that the worker keeps."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    async def save(self, delivery: Delivery, state: bytes) -> None:
        """Keep a state; the loop goes on meanwhile. Raises LeaseLostError."""
        await asyncio.to_thread(self.save_blocking, delivery, state)

    def save_blocking(self, delivery: Delivery, state: bytes) -> None:
        """Keep a state. Raises LeaseLostError."""
        note = Note(delivery.entry_id, delivery.deliveries, state=state)
        if self._parent.ask(encode_note(note)) != KEPT:
            raise LeaseLostError(delivery.entry_id, delivery.owner)

    def report(self, delivery: Delivery, event_id: str, progress: Progress) -> None:  # noqa: ARG002 - the worker knows
        """Say how far a handler is."""
        self._parent.tell(encode_note(Note(delivery.entry_id, delivery.deliveries, progress=progress)))


def _module(place: str) -> ModuleType:
    """A module by its name, or a script by its path."""
    try:
        return load_main(place) if Path(place).is_absolute() else importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"a module of the app cannot be imported in a child process: {error}") from error


_inside = _Inside()
attach = _inside.attach
prepare = _inside.prepare
handle = _inside.handle
finish = _inside.finish
