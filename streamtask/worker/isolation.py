"""Handlers in child processes: `pool="process"`, and suspects, each alone in a process of its own (rule 8).

The child loads the same app, runs the handler and asks its own broker for the outcome; only bytes pass between. What
passes is defined here; `isolation_child` is the other side. Nothing here settles or retries.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from streamtask.broker import Run
from streamtask.context import Application, Notes
from streamtask.errors import ConfigurationError, LeaseLostError, StreamtaskError
from streamtask.telemetry import logs
from streamtask.transport.values import Dead, Delivery, Done, Outcome, Progress, Release, Retry, Skip, Wait
from streamtask.worker.sandbox import Aside, Sandbox

_ENTRY: Final = "streamtask.worker.isolation_child:handle"
#: What a child is for: the handlers of the process pool, or whatever is alone.
_POOL: Final = "pool"
SUSPECT: Final = "suspect"
#: Suspects that run at a time, each in a process that is started for it.
SUSPECTS: Final = max(2, min(4, os.cpu_count() or 1))
#: Children for handlers that set no `concurrency`.
CHILDREN: Final = os.cpu_count() or 1

#: What a call leaves for several together, the worker makes of their outcomes.
_OUTCOMES: Final = {kind.__name__: kind for kind in (Done, Retry, Dead, Release, Skip, Wait)}


class Request(msgspec.Struct, frozen=True):
    """One delivery for a child to handle."""

    stream: str
    group: str
    entry_id: str
    owner: str
    fields: list[bytes]
    deliveries: int
    failures: int
    uncharged: int
    alone: bool
    #: What an earlier delivery has checkpointed.
    state: bytes | None
    #: The payload, where it is another than that of the entry: a call that was given the values of a group.
    payload: bytes | None = None

    def delivery(self) -> Delivery:
        """The delivery as the worker has it."""
        return Delivery(
            self.stream,
            self.group,
            self.entry_id,
            self.owner,
            self.fields,
            deliveries=self.deliveries,
            failures=self.failures,
            uncharged=self.uncharged,
        )


class Note(msgspec.Struct, frozen=True):
    """What a handler in a child has come to: a state, or how far it is."""

    #: Of which delivery: a thread that an earlier one has left behind may speak, too.
    entry_id: str
    deliveries: int
    state: bytes | None = None
    progress: Progress | None = None


#: The answers to a state.
KEPT: Final = b"kept"
LOST: Final = b"lost"


def encode_note(note: Note) -> bytes:
    """A note as bytes."""
    return msgspec.msgpack.encode(note)


def _request(delivery: Delivery, *, alone: bool, state: bytes | None = None, payload: bytes | None = None) -> Request:
    return Request(
        delivery.stream,
        delivery.group,
        delivery.entry_id,
        delivery.owner,
        list(delivery.fields),
        delivery.deliveries,
        delivery.failures,
        delivery.uncharged,
        alone,
        state,
        payload,
    )


def encode_request(delivery: Delivery, *, alone: bool, state: bytes | None, payload: bytes | None = None) -> bytes:
    """A delivery as bytes."""
    return msgspec.msgpack.encode(_request(delivery, alone=alone, state=state, payload=payload))


def decode_request(request: bytes) -> Request | list[Request]:
    """The delivery that the worker sent, or those of a batch."""
    return msgspec.msgpack.decode(request, type=Request | list[Request])


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes."""
    return msgspec.msgpack.encode((type(outcome).__name__, outcome))


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """The outcomes of a batch as bytes."""
    return msgspec.msgpack.encode([encode_outcome(outcome) for outcome in outcomes])


def decode_outcomes(reply: bytes) -> list[Outcome]:
    """The outcomes that the child decided on, in the order of the batch."""
    return [decode_outcome(each) for each in msgspec.msgpack.decode(reply, type=list[bytes])]


def decode_outcome(reply: bytes) -> Outcome:
    """The outcome that the child decided on."""
    kind, outcome = msgspec.msgpack.decode(reply, type=tuple[str, msgspec.Raw])
    decoded: Any = msgspec.msgpack.decode(outcome, type=_OUTCOMES[kind])
    if not isinstance(decoded, Outcome):
        raise StreamtaskError(f"a child process sent a {kind}, which is no outcome")
    return decoded


class Isolation:
    """The child processes of one worker, started when needed: `children` for the process pool, a few for suspects."""

    def __init__(
        self, app: Application, *, children: int, modules: Collection[str] = (), max_memory: int | None = None
    ) -> None:
        """`max_memory`: MiB beyond which a child is replaced after its run."""
        self._app = app
        self._max_memory = max_memory
        #: Where handlers are defined: modules that the app's own need not import.
        self._modules = modules
        self._children = children
        self._pool: Sandbox | None = None
        self._suspects: Sandbox | None = None
        #: Held while that is made: the first suspects come together.
        self._making = asyncio.Lock()

    async def prepare(self) -> None:
        """Start a child for the process pool, if there is one.

        Raises:
            ConfigurationError: the app cannot be loaded in a child process; the message says why.
        """
        if self._children:
            self._pool = await self._sandbox_of(self._children, _POOL)
            await self._pool.warm()

    async def handle(self, run: Run, notes: Notes, state: bytes | None) -> Outcome:
        """Have a child run the handler. `state`: what an earlier delivery has checkpointed.

        Raises:
            WorkerLostError: the child died.
            HandlerTimeoutError: it ran longer than its hard timeout, and was killed.
            ConfigurationError: no child can be started for this app.
        """
        has_values = run.flow is not None and run.flow.collect is not None
        payload = run.envelope.payload_bytes if has_values else None
        request = encode_request(run.delivery, alone=run.alone, state=state, payload=payload)
        return decode_outcome(
            await self._run(run, request, partial(_take_note, run.delivery, run.envelope.event_id, notes))
        )

    async def handle_batch(self, runs: Sequence[Run]) -> list[Outcome]:
        """Have a child run a batch handler: the outcome of each. Raises as `handle`."""
        request = msgspec.msgpack.encode([_request(run.delivery, alone=run.alone) for run in runs])
        return decode_outcomes(await self._run(runs[0], request, None))

    async def _run(self, run: Run, request: bytes, aside: Aside | None) -> bytes:
        timeout = run.handler.timeout
        # An async handler keeps its own soft timeout: a signal would hit the event loop.
        soft = None if run.handler.is_async else timeout.soft
        sandbox = self._pool
        if run.alone or sandbox is None:
            async with self._making:
                if self._suspects is None:
                    self._suspects = await self._sandbox_of(SUSPECTS, SUSPECT)
            sandbox = self._suspects
        return await sandbox.run(request, soft=soft, hard=timeout.hard, certain=run.alone, aside=aside)

    async def _sandbox_of(self, size: int, runs: str) -> Sandbox:
        # In a thread: an embedded server may have to be started first.
        arguments = await asyncio.to_thread(app_arguments, self._app, self._modules)
        return Sandbox(_ENTRY, size=size, arguments={**arguments, "runs": runs}, max_memory=self._max_memory)

    async def close(self) -> None:
        """Kill what still runs and end the children."""
        for sandbox in (self._pool, self._suspects):
            if sandbox is not None:
                await sandbox.close(grace=0.0)


async def _take_note(delivery: Delivery, event_id: str, notes: Notes, words: bytes) -> bytes | None:
    """Keep what a child says of a delivery; the answer, where it waits for one."""
    note = msgspec.msgpack.decode(words, type=Note)
    is_of_this = (note.entry_id, note.deliveries) == (delivery.entry_id, delivery.deliveries)
    if note.progress is not None:
        if is_of_this:
            notes.report(delivery, event_id, note.progress)
        return None
    try:
        if not is_of_this:
            return LOST
        await notes.save(delivery, note.state or b"")
    except LeaseLostError:
        return LOST
    return KEPT


def app_arguments(app: Application, modules: Collection[str] = ()) -> dict[str, str]:
    """How a child process finds the app, by the module-level name it has here, and the modules of its handlers.

    Raises:
        ConfigurationError: it has none.
    """
    common = {"broker": app.address, "log_format": logs.configured_format() or ""}
    found = [(_place(name, module), _attribute(module, app)) for name, module in list(sys.modules.items())]
    home, attribute = next(((place, attribute) for place, attribute in found if place and attribute), ("", ""))
    if not home:
        raise ConfigurationError(
            f"app {app.name!r} has no module-level name, so no child process can import it; assign it to a variable "
            'at the top level of a module (needed for pool="process")'
        )
    places = [_place(name, sys.modules.get(name)) for name in sorted(modules)]
    # The app's first: it is imported first in most programs, which matters where two modules import each other.
    order = dict.fromkeys((home, *(place for place in places if place)))
    return {**common, "attribute": attribute or "", "modules": "\n".join(order)}


def _place(name: str, module: ModuleType | None) -> str:
    """What a child imports for a module: its name, or the path of a script; empty where neither is known."""
    if name != "__main__":
        return name
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    path = getattr(module, "__file__", None)
    return str(Path(path).absolute()) if path is not None else ""


def _attribute(module: ModuleType | None, app: Any) -> str | None:
    names = getattr(module, "__dict__", {})
    return next((name for name, value in list(names.items()) if value is app), None)
