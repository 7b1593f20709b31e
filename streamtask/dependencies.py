"""Dependencies: what a handler is given beside its event.

`plan` reads the parameters of a function, and of all that it depends on, once, when it is registered: what nothing
could be given for is refused there. Nothing is called here; `worker/provider.py` makes what a plan names.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from pydantic.fields import FieldInfo

from streamtask.annotations import hints_of, plain
from streamtask.context import Context
from streamtask.errors import ConfigurationError
from streamtask.event import Event

Scope = Literal["call", "process"]
#: A function -> what is called in its place.
Overrides = Mapping[Callable[..., Any], Callable[..., Any]]
_Kind = Literal["plain", "async", "generator", "async generator"]

#: What stands for the app in an annotation, by name: it is made of this module, and above it.
_APPS = ("streamtask.app.App", "streamtask.context.Application")
#: Packages whose classes are given by a web server, for a request.
_WEB = ("starlette.", "fastapi.")


# ── what users write ──────────────────────────────────────────────────────────────────────────────────────────────


class Dependency(msgspec.Struct, frozen=True):
    """What `Depends` makes."""

    dependency: Callable[..., Any] | None
    use_cache: bool
    scope: Scope


def Depends(  # noqa: N802 - FastAPI's word, and it stands where a class would
    dependency: Callable[..., Any] | None = None, *, use_cache: bool = True, scope: Scope = "call"
) -> Any:
    """Have a parameter given what a function makes.

    It stands in an annotation, `db: Annotated[Session, Depends(session)]`, or is a default, `db: Session =
    Depends(session)`.

    The function may be `async def` or `def`, and a generator, of which what is behind its `yield` runs after the
    handler and before its outcome is settled: a failure there is a failure of the handler. Its own parameters are
    other dependencies, the event, the `Context` and the app, by their annotations. Without a function the annotated
    class is called.

    `use_cache`: called once for a delivery, however many ask for it. `scope`: "process": made once in each process that
    runs the handler, before its worker takes events, and put away after the last; it can be given the app and others of
    its scope.
    """
    return Dependency(dependency, use_cache, scope)


# ── planning ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Given(Enum):
    """What a parameter can be given that no function has to make."""

    EVENT = "event"
    CONTEXT = "context"
    APP = "app"


class Call(msgspec.Struct, frozen=True, eq=False):
    """A function that is called for a parameter; once for all that share this object."""

    function: Callable[..., Any]
    #: For people.
    name: str
    kind: _Kind
    scope: Scope
    needs: Needs


#: Parameter -> what it is given.
Needs = tuple[tuple[str, Given | Call], ...]


class Plan(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What a handler is given beside its event and its context."""

    needs: Needs
    #: From what it was made.
    function: Callable[..., Any]
    name: str
    events: tuple[type[Event], ...]
    own: frozenset[str]

    def under(self, overrides: Overrides) -> Plan:
        """The same with other functions in the place of some."""
        return _planned(self.function, self.name, self.events, self.own, overrides)

    def asks_for(self, *given: Given) -> bool:
        """Whether it, or something that is made for it, is given one of these."""
        return _asks_for(self.needs, given)

    def of_process(self) -> Iterator[Call]:
        """What of it is made once a process."""
        return _of_process(self.needs)


def depends(function: Callable[..., Any], name: str) -> frozenset[str]:
    """The parameters of a function that are dependencies. Raises ConfigurationError, naming the function."""
    hints = hints_of(function, name)
    parameters = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in parameters if _mark(each, hints.get(each.name), name) is not None)


def plan(
    function: Callable[..., Any], name: str, *, events: tuple[type[Event], ...], own: Collection[str]
) -> Plan | None:
    """What the parameters of a handler are given, other than its `own`; None: nothing.

    Raises:
        ConfigurationError: nothing is known for a parameter of it or of a dependency; the message names both.
    """
    made = _planned(function, name, events, frozenset(own), {})
    return made if made.needs else None


def _planned(
    function: Callable[..., Any],
    name: str,
    events: tuple[type[Event], ...],
    own: frozenset[str],
    overrides: Overrides,
) -> Plan:
    needs = _Planner(name, events, overrides).needs(function, name, own)
    return Plan(needs=needs, function=function, name=name, events=events, own=own)


class _Planner:
    """Reads one handler's function and all that it depends on."""

    def __init__(self, handler: str, events: tuple[type[Event], ...], overrides: Overrides) -> None:
        self._handler = handler
        self._events = events
        self._overrides = overrides
        self._shared: dict[tuple[Callable[..., Any], Scope], Call] = {}
        self._path: list[Callable[..., Any]] = []

    def needs(self, function: Callable[..., Any], name: str, own: Collection[str] = ()) -> Needs:
        """What each parameter is given that has no default, or a `Depends` for one."""
        readable = _readable(function)
        hints = hints_of(readable, name)
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError as error:
            raise ConfigurationError(f"{name}: its parameters cannot be read: {error}") from error
        found: list[tuple[str, Given | Call]] = []
        for each in parameters:
            if each.name in own or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            source = self._source(each, hints.get(each.name, each.annotation), name)
            if source is not None:
                found.append((each.name, source))
        return tuple(found)

    def _source(self, parameter: inspect.Parameter, hint: Any, name: str) -> Given | Call | None:
        mark = _mark(parameter, hint, name)
        wanted = plain(hint)
        source = self._call(mark, parameter, wanted, name) if mark is not None else self._given(wanted)
        if source is None:
            if _of_the_web(parameter, hint) or parameter.default is parameter.empty:
                raise ConfigurationError(self._unknown(parameter, hint, name))
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigurationError(
                f"{name}: the parameter {parameter.name!r} is given by name; take it before no `/`"
            )
        return source

    def _given(self, wanted: Any) -> Given | None:
        if wanted is Context:
            return Given.CONTEXT
        if not isinstance(wanted, type):
            kinds = typing.get_args(wanted)
            are_events = bool(kinds) and all(_is_event(kind) for kind in kinds)
            return Given.EVENT if are_events and all(issubclass(event, kinds) for event in self._events) else None
        if any(f"{each.__module__}.{each.__qualname__}" in _APPS for each in wanted.__mro__):
            return Given.APP
        return Given.EVENT if _is_event(wanted) and all(issubclass(event, wanted) for event in self._events) else None

    def _call(self, mark: Any, parameter: inspect.Parameter, wanted: Any, name: str) -> Call:
        wished = mark.dependency if mark.dependency is not None else wanted
        if not callable(wished) or wished is parameter.empty:
            raise ConfigurationError(f"{name}: Depends of its parameter {parameter.name!r} names no function")
        if getattr(mark, "scopes", None) or getattr(mark, "max_concurrency", None) is not None:
            raise ConfigurationError(
                f"{name}: the dependency of its parameter {parameter.name!r} has security scopes or a limit, which "
                "nobody but FastAPI heeds; write streamtask's Depends here"
            )
        function = self._overrides.get(wished, wished)
        scope: Scope = "process" if mark.scope == "process" else "call"
        key = (function, scope)
        if mark.use_cache and key in self._shared:
            return self._shared[key]
        called = _name(function)
        if function in self._path:
            raise ConfigurationError(f"{self._handler}: the dependency {called} depends on itself")
        self._path.append(function)
        made = Call(function, called, _kind(function), scope, self.needs(function, called))
        self._path.pop()
        if scope == "process":
            self._check_process(made)
        if mark.use_cache:
            self._shared[key] = made
        return made

    def _check_process(self, call: Call) -> None:
        for parameter, source in call.needs:
            if source is not Given.APP and not (isinstance(source, Call) and source.scope == "process"):
                raise ConfigurationError(
                    f"{call.name} (of {self._handler}) is made once a process, and its parameter {parameter!r} once a "
                    'delivery; only the app and what has scope="process" can be given to it'
                )

    def _unknown(self, parameter: inspect.Parameter, hint: Any, name: str) -> str:
        wanted = plain(hint)
        shown = "" if wanted is parameter.empty else f": {getattr(wanted, '__qualname__', wanted)}"
        who = name if name == self._handler else f"the dependency {name} (of {self._handler})"
        if _of_the_web(parameter, hint):
            return (
                f"{who} wants `{parameter.name}{shown}`, which comes with a web request, and there is none behind an "
                "event; take what it needs from the event or from another dependency"
            )
        if _is_event(wanted):
            handled = ", ".join(event.__qualname__ for event in self._events)
            return f"{who} wants `{parameter.name}{shown}`, and the handler takes {handled}"
        return (
            f"{who}: nothing is known for its parameter `{parameter.name}{shown}`; annotate it with Context, write "
            "Depends(...), or give it a default"
        )


def _mark(parameter: inspect.Parameter, hint: Any, name: str) -> Any:
    """The `Depends` of a parameter, ours or FastAPI's; None where it has none."""
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    marks = [each for each in (*extras, parameter.default) if _is_mark(each)]
    if len(marks) > 1:
        raise ConfigurationError(f"{name}: its parameter {parameter.name!r} has more than one Depends")
    return marks[0] if marks else None


def _is_mark(value: Any) -> bool:
    # FastAPI's by its form: it is not imported here, and its users have no reason to write two.
    return not isinstance(value, type) and hasattr(value, "dependency") and hasattr(value, "use_cache")


def _of_the_web(parameter: inspect.Parameter, hint: Any) -> bool:
    """Whether a parameter is filled by a web server: a request, or what FastAPI reads of one."""
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    kind = plain(hint)
    return (isinstance(kind, type) and kind.__module__.startswith(_WEB)) or any(
        isinstance(each, FieldInfo) and type(each) is not FieldInfo for each in (*extras, parameter.default)
    )


def _is_event(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Event)


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """What of a callable has the annotations."""
    if isinstance(function, partial):
        return _readable(function.func)
    if inspect.isclass(function):
        return function.__init__
    return function if inspect.isroutine(function) else type(function).__call__


def _kind(function: Callable[..., Any]) -> _Kind:
    called = function
    if not inspect.isroutine(function) and not inspect.isclass(function) and not isinstance(function, partial):
        called = type(function).__call__
    if inspect.isasyncgenfunction(called):
        return "async generator"
    if inspect.isgeneratorfunction(called):
        return "generator"
    return "async" if inspect.iscoroutinefunction(called) else "plain"


def _name(function: Callable[..., Any]) -> str:
    readable = function.func if isinstance(function, partial) else function
    if not hasattr(readable, "__qualname__"):
        readable = type(readable)
    return f"{readable.__module__}.{readable.__qualname__}"


def _asks_for(needs: Needs, given: Collection[Given]) -> bool:
    return any(_asks_for(source.needs, given) if isinstance(source, Call) else source in given for _, source in needs)


def _of_process(needs: Needs) -> Iterator[Call]:
    for _, source in needs:
        if isinstance(source, Call):
            if source.scope == "process":
                yield source
            else:
                yield from _of_process(source.needs)
