"""Tasks: functions that are called here and run in a worker, with a result that can be waited for.

A task is an event whose payload is the call's arguments, checked against the function's signature by pydantic when it
is sent and when it is run; all that holds for events holds for tasks. This module makes the event class and the
handler of a function, and what a sender holds; it connects nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Generic, NotRequired, ParamSpec, Protocol, TypeVar, Unpack, overload

import msgspec
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from streamtask.annotations import hints_of, plain
from streamtask.context import Context, PublishOptions
from streamtask.dependencies import Plan, depends, plan
from streamtask.errors import ConfigurationError, EventRefusedError
from streamtask.event import Event, describe, dump
from streamtask.outcomes import Keeping, value_of
from streamtask.settings import RESULT_TTL
from streamtask.transport.values import Progress, Result
from streamtask.workflow import BlockingSender as BlockingWorkflowSender
from streamtask.workflow import Sender as WorkflowSender
from streamtask.workflow import Signature

#: Arguments of a task's call; what it gives; arguments and result of the function itself.
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
C = TypeVar("C")


class Sender(WorkflowSender, Protocol):
    """What of an app a task needs."""

    @property
    def name(self) -> str:
        """See `App.name`."""

    async def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""

    async def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """What became of an event, as it is kept. Raises `ResultTimeoutError`."""

    def progress_of(self, stream: str, event_id: str) -> AsyncIterator[Progress]:
        """How far it is, each time that it says so, until there is a result."""

    async def cancel_task(self, stream: str, event_id: str, result: Result | None) -> bool:
        """Have it not begun, or ended, and this result kept; False: it has ended already."""

    @property
    def sync(self) -> BlockingSender:
        """The blocking twin."""


class BlockingSender(BlockingWorkflowSender, Protocol):
    """The same for code that cannot await."""

    def publish(self, event: Event, **options: Unpack[PublishOptions]) -> str:
        """See `App.publish`."""

    def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """See `Sender.wait_for_result`."""

    def cancel_task(self, stream: str, event_id: str, result: Result | None) -> bool:
        """See `Sender.cancel_task`."""


class _Payload(msgspec.Struct):
    arguments: msgspec.Raw


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `@app.task` is given for all calls; the others are those of `@app.on`."""

    #: Type of the event: how the task is called on the wire. None: module and name of the function.
    name: str | None = None
    #: None: the app's name with "-tasks" behind it.
    stream: str | None = None
    #: What calls may be sent with, the highest first; None: there is one stream.
    priorities: tuple[str, ...] | None = None
    #: Seconds that the result is kept; None: none is.
    result_ttl: float | None = RESULT_TTL
    #: Of the handler.
    handler: Mapping[str, Any]


class Task(Generic[P, R, Q, C]):
    """A function that can be called here, as it is, and sent to a worker."""

    def __init__(self, function: Callable[Q, C], options: TaskOptions) -> None:
        self._function = function
        self.options_of_task = options
        #: What it is called on the wire.
        self.name = options.name or _name(function)
        self.is_async = inspect.iscoroutinefunction(function)
        hints = hints_of(function, self.name)
        parameters = list(inspect.signature(function).parameters.values())
        #: Whether its first parameter is the context.
        self.takes_context = bool(parameters) and plain(hints.get(parameters[0].name)) is Context
        taken = parameters[1:] if self.takes_context else parameters
        given = depends(function, self.name)
        own = {each.name for each in parameters} - given
        #: What else the function is given, by no sender; None: nothing.
        self.dependencies: Plan | None = plan(function, self.name, events=(Event,), own=own) if given else None
        self._parameters = [each for each in taken if each.name not in given]
        self._signature = inspect.Signature(self._parameters)
        #: As the function is called.
        self._whole = inspect.Signature(taken)
        self._hints = hints
        self._value: TypeAdapter[Any] = _adapter(hints.get("return", Any), self.name)
        self._home: tuple[Sender, type[Event]] | None = None
        #: Classes of events that lack one argument, by its name: of steps that are given it later.
        self._lacking: dict[str, type[Event]] = {}
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.name)

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> C:
        """Call the function here, as if it were no task."""
        return self._function(*args, **kwargs)

    # ── in an app ─────────────────────────────────────────────────────────────────────────────────────────────

    def bind(self, sender: Sender) -> type[Event]:
        """Make it a task of an app; the event class that its calls are.

        Raises:
            ConfigurationError: it is another app's, or its parameters cannot be written.
        """
        if self._home is None:
            self._home = sender, self._event_class(self.options_of_task.stream or f"{sender.name}-tasks")
        home, event = self._home
        if home is not sender:
            raise ConfigurationError(f"the task {self.name} is of the app {home.name!r} already")
        return event

    @property
    def home(self) -> tuple[Sender, type[Event]]:
        """The app that it is a task of, and the event class that its calls are there.

        Raises:
            ConfigurationError: it is in no app yet.
        """
        if self._home is None:
            raise ConfigurationError(f"the task {self.name} is in no app yet: app.include(router)")
        return self._home

    @property
    def event(self) -> type[Event]:
        """See `home`."""
        return self.home[1]

    @property
    def stream(self) -> str:
        """The stream of its calls."""
        return describe(self.event).stream

    @property
    def result_ttl(self) -> float | None:
        """Seconds that its results are kept; None: they are not."""
        return self.options_of_task.result_ttl

    @property
    def keeping(self) -> Keeping | None:
        """How its results are kept; None: not at all."""
        ttl = self.result_ttl
        return None if ttl is None else Keeping(ttl=ttl)

    @property
    def parameters(self) -> list[str]:
        """The names of what it is called with, each for one value."""
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [each.name for each in self._parameters if each.kind not in several]

    def argument(self, event: Event, name: str) -> Any:
        """What a call has for a parameter."""
        bound = self._bound(event, self._signature)
        bound.apply_defaults()
        return bound.arguments[name]

    def runner(self) -> Callable[..., Any]:
        """The function as a handler: of the event, and of the context."""

        async def run_async(event: Event, ctx: Context, **given: Any) -> Any:
            coroutine: Any = self._run(event, ctx, given)
            return await coroutine

        def run(event: Event, ctx: Context, **given: Any) -> Any:
            return self._run(event, ctx, given)

        chosen: Any = run_async if self.is_async else run
        # As the function is called: handlers are found, and shown, by their names.
        for attribute in ("__module__", "__name__", "__qualname__"):
            setattr(chosen, attribute, getattr(self._function, attribute))
        return chosen  # type: ignore[no-any-return]

    def _run(self, event: Event, ctx: Context, given: dict[str, Any]) -> Any:
        bound = self._bound(event, self._whole, given)
        function: Callable[..., Any] = self._function
        context = (ctx,) if self.takes_context else ()
        return function(*context, *bound.args, **bound.kwargs)

    @staticmethod
    def _bound(event: Event, signature: inspect.Signature, given: Mapping[str, Any] = {}) -> inspect.BoundArguments:
        arguments: dict[str, Any] = event.arguments  # type: ignore[attr-defined] # the class is made below
        return inspect.BoundArguments(signature, OrderedDict({**arguments, **given}))

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Send a call to the workers. Returns what its result can be asked of.

        Raises:
            TypeError: the arguments do not fit the function's parameters.
            ValidationError: their types do not (pydantic's).
            PublishError: unknown whether it is stored.
        """
        return await self.options().send(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same for code that cannot await."""
        return self.options().delay(*args, **kwargs)

    def options(self, **options: Unpack[PublishOptions]) -> Sending[P, R]:
        """The task with options of `App.publish`: `add.options(delay=60).send(2, 3)`."""
        return Sending(self, options)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Event:
        """A call as an event."""
        bound = self._signature.bind(*args, **kwargs)
        return self.event(arguments=bound.arguments)

    # ── as a step ─────────────────────────────────────────────────────────────────────────────────────────────────

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A call that is not made yet, as a step of a workflow. What the step before comes to is its first argument."""
        return Signature(self, args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """The same with all of its arguments: it takes no value of the step before it."""
        return Signature(self, args, kwargs, takes_value=False)

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, takes_value: bool) -> tuple[bytes, str]:
        """The arguments of a call as JSON, and the parameter that is left for what the step before comes to."""
        if not takes_value:
            return _arguments(self.call(tuple(args), dict(kwargs))), ""
        name = self._first_open(kwargs)
        is_first = self._parameters[0].name == name and self._parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
        placed = ((None, *args), kwargs) if is_first else (args, {**kwargs, name: None})
        bound = self._signature.bind(*placed[0], **placed[1])
        del bound.arguments[name]
        if name not in self._lacking:
            self._lacking[name] = self._event_class(self.stream, without=name)
        return _arguments(self._lacking[name](arguments=bound.arguments)), name

    def _first_open(self, kwargs: Mapping[str, Any]) -> str:
        """The first parameter that is given no argument by name."""
        several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        for parameter in self._parameters:
            if parameter.kind not in several and parameter.name not in kwargs:
                return parameter.name
        raise TypeError("no parameter is left")

    @property
    def sender(self) -> Sender:
        """See `home`."""
        return self.home[0]

    def handle(self, event_id: str) -> Handle[R]:
        """The handle of a call by its id, as another process has it from `Handle.id`."""
        return Handle(self, event_id)

    def load(self, body: bytes) -> R:
        """The value in a kept outcome. Raises `TaskFailedError`, `TaskCancelledError`."""
        value: R = self._value.validate_json(value_of(body, of=self.name))
        return value

    def load_value(self, written: bytes) -> R:
        """A value that was kept as JSON."""
        value: R = self._value.validate_json(written)
        return value

    # ── to the wire ───────────────────────────────────────────────────────────────────────────────────────────

    def _event_class(self, stream: str, *, without: str = "") -> type[Event]:
        fields: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter.name == without:
                continue
            hint: Any = self._hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                fields[parameter.name] = NotRequired[tuple[hint, ...]]
            elif parameter.kind is parameter.VAR_KEYWORD:
                fields[parameter.name] = NotRequired[Mapping[str, hint]]
            else:
                has_default = parameter.default is not parameter.empty
                fields[parameter.name] = NotRequired[hint] if has_default else hint
        arguments = TypedDict("arguments", fields)  # type: ignore[misc]
        try:
            return create_model(
                self.__name__,
                __base__=Event,
                __module__=self._function.__module__,
                __cls_kwargs__={"stream": stream, "type": self.name, "priorities": self.options_of_task.priorities},
                arguments=(arguments, ...),
            )
        except PydanticSchemaGenerationError as error:
            raise ConfigurationError(f"the task {self.name} has a parameter that cannot be written: {error}") from error

    def dump(self, value: Any) -> bytes:
        """What it returned, as JSON. Raises `EventRefusedError` for what would not come back as it is."""
        try:
            written = self._value.dump_json(value, warnings="error")
            self._value.validate_json(written)
        except (PydanticSerializationError, ValidationError) as error:
            said = str(error).partition("\n")[0]
            raise EventRefusedError(
                f"the task {self.name} returned a {type(value).__name__} that does not fit its annotation: {said}",
                event_id="",
            ) from None
        return written

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class Sending(Generic[P, R]):
    """A task and how its next calls are published."""

    def __init__(self, task: Task[P, R, Any, Any], options: PublishOptions) -> None:
        self._task = task
        self._options = options

    async def send(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """See `Task.send`."""
        event = self._task.call(args, kwargs)
        return Handle(self._task, await self._task.sender.publish(event, **self._options))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """See `Task.delay`."""
        event = self._task.call(args, kwargs)
        return Handle(self._task, self._task.sender.sync.publish(event, **self._options))


class Handle(Generic[R]):
    """One call of a task, sent."""

    def __init__(self, task: Task[Any, R, Any, Any], event_id: str) -> None:
        self._task = task
        #: The event id of the call; `task.handle(id)` makes the handle again, in whatever process.
        self.id = event_id

    async def result(self, timeout: float | None = None) -> R:
        """What the call returned, once it has.

        Raises:
            TaskFailedError: it was given up; the error has the traceback of its last attempt.
            TaskCancelledError: it was cancelled.
            ResultTimeoutError: it has not ended within `timeout` seconds. It goes on.
        """
        body = await self._task.sender.wait_for_result(self._stream(), self.id, timeout=timeout)
        return self._task.load(body)

    def get(self, timeout: float | None = None) -> R:
        """The same for code that cannot await."""
        return self._task.load(self._task.sender.sync.wait_for_result(self._stream(), self.id, timeout=timeout))

    def progress(self) -> AsyncIterator[Progress]:
        """How far it is (`ctx.progress`), each time that it says so, until it has ended: for `async for`."""
        return self._task.sender.progress_of(self._stream(), self.id)

    async def cancel(self) -> bool:
        """Have it not begun; or where it runs, ended: an async one within a second, a process by a kill.

        A thread cannot be ended: it is waited for, and what it comes to is dropped. False: it has ended already.
        """
        return await self._task.sender.cancel_task(self._task.stream, self.id, self._cancelled())

    def revoke(self) -> bool:
        """The same for code that cannot await."""
        return self._task.sender.sync.cancel_task(self._task.stream, self.id, self._cancelled())

    def _cancelled(self) -> Result | None:
        keeping = self._task.keeping
        return None if keeping is None else keeping.cancelled(self.id)

    def _stream(self) -> str:
        if self._task.keeping is None:
            raise ConfigurationError(f"the task {self._task.name} keeps no results: result_ttl is None")
        return self._task.stream

    def __repr__(self) -> str:
        return f"<call {self.id} of {self._task.name}>"


# ── the decorator ─────────────────────────────────────────────────────────────────────────────────────────────────


class TaskDecorator(Protocol):
    """What `@app.task(...)` gives."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Concatenate[Context, P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R, Concatenate[Context, P], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, P, R]: ...


def _name(function: Callable[..., Any]) -> str:
    """What a task is called on the wire: the same in a script and in the worker that imports it."""
    module = function.__module__
    if module == "__main__":
        started = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(started).stem if started else module
    return f"{module}.{function.__qualname__}"


def _arguments(call: Event) -> bytes:
    return bytes(msgspec.json.decode(dump(call), type=_Payload).arguments)


def _adapter(hint: Any, name: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError as error:
        raise ConfigurationError(f"the task {name} returns what cannot be written: {error}") from error
