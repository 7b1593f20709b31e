"""Handlers in child processes: `pool="process"`, and suspects, each alone in a process of its own (rule 8).

The child loads the same app, runs the handler and asks its own broker for the outcome; only bytes pass between. What
passes is defined here; `isolation_child` is the other side. Nothing here settles or retries.
"""

from __future__ import annotations

import asyncio
import os
import sys
from types import ModuleType
from typing import Any, Final

import msgspec

from streamtask.broker import Run
from streamtask.context import Application
from streamtask.errors import ConfigurationError, StreamtaskError
from streamtask.telemetry import logs
from streamtask.transport.port import Dead, Delivery, Done, Outcome, Release, Retry, Skip, Wait
from streamtask.worker.sandbox import Sandbox

_ENTRY: Final = "streamtask.worker.isolation_child:handle"
#: Suspects that run at a time, each in a process that is started for it.
SUSPECTS: Final = max(2, min(4, os.cpu_count() or 1))
#: Children for handlers that set no `concurrency`.
CHILDREN: Final = os.cpu_count() or 1

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


def encode_request(delivery: Delivery, *, alone: bool) -> bytes:
    """A delivery as bytes."""
    return msgspec.msgpack.encode(
        Request(
            delivery.stream,
            delivery.group,
            delivery.entry_id,
            delivery.owner,
            list(delivery.fields),
            delivery.deliveries,
            delivery.failures,
            delivery.uncharged,
            alone,
        )
    )


def decode_request(request: bytes) -> Request:
    """The delivery that the worker sent."""
    return msgspec.msgpack.decode(request, type=Request)


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes."""
    return msgspec.msgpack.encode((type(outcome).__name__, outcome))


def decode_outcome(reply: bytes) -> Outcome:
    """The outcome that the child decided on."""
    kind, outcome = msgspec.msgpack.decode(reply, type=tuple[str, msgspec.Raw])
    decoded: Any = msgspec.msgpack.decode(outcome, type=_OUTCOMES[kind])
    if not isinstance(decoded, Outcome):
        raise StreamtaskError(f"a child process sent a {kind}, which is no outcome")
    return decoded


class Isolation:
    """The child processes of one worker, started when needed: `children` for the process pool, a few for suspects."""

    def __init__(self, app: Application, *, children: int) -> None:
        self._app = app
        self._children = children
        self._pool: Sandbox | None = None
        self._suspects: Sandbox | None = None

    async def prepare(self) -> None:
        """Start a child for the process pool, if there is one.

        Raises:
            ConfigurationError: the app cannot be loaded in a child process; the message says why.
        """
        if self._children:
            self._pool = await self._sandbox_of(self._children)
            await self._pool.warm()

    async def handle(self, run: Run) -> Outcome:
        """Have a child run the handler.

        Raises:
            WorkerLostError: the child died.
            HandlerTimeoutError: it ran longer than its hard timeout, and was killed.
            ConfigurationError: no child can be started for this app.
        """
        timeout = run.handler.timeout
        # An async handler keeps its own soft timeout: a signal would hit the event loop.
        soft = None if run.handler.is_async else timeout.soft
        request = encode_request(run.delivery, alone=run.alone)
        sandbox = self._pool
        if run.alone or sandbox is None:
            if self._suspects is None:
                self._suspects = await self._sandbox_of(SUSPECTS)
            sandbox = self._suspects
        return decode_outcome(await sandbox.run(request, soft=soft, hard=timeout.hard, certain=run.alone))

    async def _sandbox_of(self, size: int) -> Sandbox:
        # In a thread: an embedded server may have to be started first.
        arguments = await asyncio.to_thread(app_arguments, self._app)
        return Sandbox(_ENTRY, size=size, arguments=arguments)

    async def close(self) -> None:
        """Kill what still runs and end the children."""
        for sandbox in (self._pool, self._suspects):
            if sandbox is not None:
                await sandbox.close(grace=0.0)


def app_arguments(app: Application) -> dict[str, str]:
    """How a child process finds the app: by the module-level name it has here.

    Raises:
        ConfigurationError: it has none.
    """
    common = {"broker": app.address, "log_format": logs.configured_format() or ""}
    for name, module in list(sys.modules.items()):
        attribute = _attribute(module, app)
        if attribute is None:
            continue
        if name != "__main__":
            return {**common, "module": name, "attribute": attribute}
        spec = getattr(module, "__spec__", None)
        if spec is not None:
            return {**common, "module": spec.name, "attribute": attribute}
        path = getattr(module, "__file__", None)
        if path is not None:
            return {**common, "script": os.path.abspath(path), "attribute": attribute}
    raise ConfigurationError(
        f"app {app.name!r} has no module-level name, so no child process can import it; assign it to a variable "
        'at the top level of a module (needed for pool="process")'
    )


def _attribute(module: ModuleType | None, app: Any) -> str | None:
    names = getattr(module, "__dict__", {})
    return next((name for name, value in list(names.items()) if value is app), None)
