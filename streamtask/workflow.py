"""Workflows: calls of tasks one after the other, side by side, and one that waits for all of a group.

A signature is a call that is not made yet; `chain`, `group`, `chord` and `|` put them together. What they give is plain
data until it is sent. Then all of it is worked out and checked before anything leaves this process: the id of each
call, its arguments, and what comes after it (`steps.py`). This module sends nothing itself; an app does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, overload

import msgspec
from typing_extensions import TypedDict

from streamtask import envelope as envelopes
from streamtask import steps
from streamtask.errors import ConfigurationError, NotFoundError
from streamtask.outcomes import Keeping, value_of
from streamtask.steps import Call, Definition, Flow, Fork, Ready, Row, Steps, call_id
from streamtask.transport.values import Result

R = TypeVar("R")
S = TypeVar("S")

#: Seconds that what is known of a workflow is kept after each of its steps.
TTL = 86_400.0
#: The steps of a chain.
Parts: TypeAlias = "tuple[Signature[Any] | Group[Any], ...]"


class FailedCall(TypedDict):
    """What a callback (`on_error`) is told of the call that was given up."""

    workflow: str
    #: Its place in the workflow, as `streamtask inspect workflow` shows it.
    step: str
    task: str
    event_id: str
    #: As in the dead letter, such as "max_attempts".
    reason: str
    #: Of the last attempt, class and words; secrets masked.
    error: str
    attempts: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that is worked out: nothing is left but to send it."""

    id: str
    stream: str
    ttl: float
    definition: bytes
    first: Sequence[Ready]


class Sender(Protocol):
    """What of an app a workflow needs."""

    async def send_workflow(self, plan: Plan) -> None:
        """Keep what it is made of and publish its first calls. Raises `PublishError`."""

    async def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """What became of an event, as it is kept. Raises `ResultTimeoutError`."""

    async def group_values(self, stream: str, group: str) -> Mapping[int, bytes]:
        """The values of a group."""

    async def cancel_workflow(self, stream: str, workflow: str, result: Result | None) -> bool:
        """Have no call of it begun any more, and this result kept; False: it has one, which stays."""

    @property
    def sync(self) -> BlockingSender:
        """The blocking twin."""


class BlockingSender(Protocol):
    """The same for code that cannot await."""

    def send_workflow(self, plan: Plan) -> None:
        """See `Sender.send_workflow`."""

    def wait_for_result(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """See `Sender.wait_for_result`."""

    def group_values(self, stream: str, group: str) -> Mapping[int, bytes]:
        """See `Sender.group_values`."""

    def cancel_workflow(self, stream: str, workflow: str, result: Result | None) -> bool:
        """See `Sender.cancel_workflow`."""


class Callee(Protocol):
    """What of a task a workflow needs."""

    name: str

    @property
    def sender(self) -> Sender:
        """The app that it is a task of."""

    @property
    def stream(self) -> str:
        """The stream of its calls."""

    @property
    def result_ttl(self) -> float | None:
        """Seconds that its results are kept; None: they are not."""

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, takes_value: bool) -> tuple[bytes, str]:
        """The arguments of a call as JSON, and the parameter that is left for what the step before comes to."""

    def load(self, body: bytes) -> Any:
        """The value in a kept outcome. Raises `TaskFailedError`."""

    def load_value(self, written: bytes) -> Any:
        """A value of it that was kept as JSON."""


# ── what is put together ──────────────────────────────────────────────────────────────────────────────────────────


class Workflow(ABC, Generic[R]):
    """What can be sent, or be a step of something larger. `R`: what it comes to."""

    __slots__ = ()

    async def send(self, *, ttl: float = TTL) -> WorkflowHandle[R]:
        """Send it to the workers. Returns what its result can be asked of.

        `ttl`: seconds that what is known of it is kept after each of its steps.

        Raises:
            ConfigurationError: it cannot be sent as it is; the message names the step.
            TypeError: the arguments of a step do not fit its task's parameters.
            ValidationError: their types do not (pydantic's).
            PublishError: unknown whether all of it is sent.
        """
        sender, plan = _worked_out(self.parts, ttl)
        await sender.send_workflow(plan)
        return self.handle(plan.id)

    def delay(self, *, ttl: float = TTL) -> WorkflowHandle[R]:
        """The same for code that cannot await."""
        sender, plan = _worked_out(self.parts, ttl)
        sender.sync.send_workflow(plan)
        return self.handle(plan.id)

    def handle(self, workflow: str) -> WorkflowHandle[R]:
        """The handle of one that was sent, by its id, as another process has it from `WorkflowHandle.id`."""
        return WorkflowHandle(workflow, self.parts)

    def __or__(self, other: Workflow[S]) -> Chain[S]:
        """One after the other: `other` is given what the first comes to."""
        return Chain((*self.parts, *other.parts))

    @abstractmethod
    def on_error(self, callback: Signature[Any]) -> Self:
        """The same, with a call that is made for each of its calls that is given up, and told of it (`FailedCall`)."""

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """What it is as a chain: its steps."""


@dataclass(frozen=True, slots=True)
class Signature(Workflow[R]):
    """A call that is not made yet: `add.s(1)`, or `add.si(1, 2)`, which takes no value of the step before it."""

    task: Callee
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    takes_value: bool = True
    #: Seconds from when it is its turn.
    delay_of_call: float | None = None
    callbacks: tuple[Signature[Any], ...] = field(default=())

    def options(self, *, delay: float) -> Signature[R]:
        """The same, made so many seconds after it is its turn."""
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay is in seconds, from 0, got {delay}")
        return replace(self, delay_of_call=delay)

    def on_error(self, callback: Signature[Any]) -> Signature[R]:
        """See `Workflow.on_error`."""
        if not isinstance(callback, Signature):
            raise ConfigurationError(f"{self!r}: on_error takes a signature such as tell.s(), not {callback!r}")
        return replace(self, callbacks=(*self.callbacks, callback))

    @property
    def parts(self) -> Parts:
        """See `Workflow.parts`."""
        return (self,)

    def __repr__(self) -> str:
        words = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.task.name}.{'s' if self.takes_value else 'si'}({', '.join(words)})"


@dataclass(frozen=True, slots=True)
class Group(Workflow[list[R]]):
    """Members side by side. What it comes to is the list of what they come to, in their order."""

    members: tuple[Signature[R] | Chain[R], ...]

    def on_error(self, callback: Signature[Any]) -> Group[R]:
        """See `Workflow.on_error`."""
        return Group(tuple(member.on_error(callback) for member in self.members))

    @property
    def parts(self) -> Parts:
        """See `Workflow.parts`."""
        return (self,)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.members))})"


@dataclass(frozen=True, slots=True)
class Chain(Workflow[R]):
    """One step after the other. A step behind a group is given the list of what the group comes to."""

    steps: Parts

    def on_error(self, callback: Signature[Any]) -> Chain[R]:
        """See `Workflow.on_error`."""
        return Chain(tuple(step.on_error(callback) for step in self.steps))

    @property
    def parts(self) -> Parts:
        """See `Workflow.parts`."""
        return self.steps

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.steps))})"


@overload
def chain(first: Workflow[R], /) -> Chain[R]: ...
@overload
def chain(first: Workflow[Any], second: Workflow[R], /) -> Chain[R]: ...
@overload
def chain(first: Workflow[Any], second: Workflow[Any], third: Workflow[R], /) -> Chain[R]: ...
@overload
def chain(*steps: Workflow[Any] | Iterable[Workflow[Any]]) -> Chain[Any]: ...
def chain(*steps: Workflow[Any] | Iterable[Workflow[Any]]) -> Chain[Any]:
    """One step after the other, each given what the one before it comes to, as its first argument.

    The steps, or one list of them. A step behind a group waits for all of its members and is given the list of what
    they come to.
    """
    found = _workflows("chain", steps)
    return Chain(tuple(part for step in found for part in step.parts))


@overload
def group(*members: Workflow[R]) -> Group[R]: ...
@overload
def group(members: Iterable[Workflow[R]], /) -> Group[R]: ...
def group(*members: Workflow[Any] | Iterable[Workflow[Any]]) -> Group[Any]:
    """Members side by side: signatures and chains, or one list of them. A group in it lends it its members.

    Raises:
        ConfigurationError: it has no members, or one is a chain that ends with a group.
    """
    taken: list[Signature[Any] | Chain[Any]] = []
    for member in _workflows("group", members):
        *_, last = parts = member.parts
        if isinstance(last, Signature):
            taken.append(last if len(parts) == 1 else Chain(parts))
        elif len(parts) == 1:
            taken += last.members
        else:
            raise ConfigurationError(
                f"a member of a group cannot end with a group: {member!r}; end it with a task that takes the list"
            )
    return Group(tuple(taken))


def chord(header: Group[Any] | Iterable[Workflow[Any]], body: Workflow[R]) -> Chain[R]:
    """A group, and then a call that is given the list of what the group comes to: the same as `header | body`."""
    members = header if isinstance(header, Group) else group(header)
    return chain(members, body)


def _workflows(word: str, given: Sequence[Workflow[Any] | Iterable[Workflow[Any]]]) -> list[Workflow[Any]]:
    """What `chain` and `group` were given: steps one by one, or one list of them."""
    if len(given) == 1 and isinstance(given[0], Iterable) and not isinstance(given[0], Workflow):
        given = list(given[0])
    found = [each for each in given if isinstance(each, Workflow)]
    if len(found) < len(given):
        odd = next(each for each in given if not isinstance(each, Workflow))
        raise ConfigurationError(f"{word} takes signatures such as add.s(1), chains and groups, not {odd!r}")
    if not found:
        raise ConfigurationError(f"a {word} has at least one step; for none there is nothing to send")
    return found


# ── working it out ────────────────────────────────────────────────────────────────────────────────────────────────


def _worked_out(parts: Parts, ttl: float) -> tuple[Sender, Plan]:
    """What sends a workflow, and what is sent."""
    if not 0 < ttl < math.inf:
        raise ConfigurationError(f"ttl is in seconds and above 0, got {ttl}")
    task = _last_tasks(parts[-1])[0]
    planning = _Planning(task)
    planned = planning.steps(parts, "")
    last = parts[-1]
    flow = Flow(
        workflow=planning.id,
        step="",
        ttl=ttl,
        final=planned[-1].id,
        final_ttl=last.task.result_ttl if isinstance(last, Signature) else ttl,
    )
    plan = Plan(
        id=planning.id,
        stream=task.stream,
        ttl=ttl,
        definition=steps.encode_definition(Definition(tuple(planning.rows), flow.final, flow.final_ttl)),
        first=steps.begin(planned, flow),
    )
    return task.sender, plan


class _Planning:
    """Works the steps of one workflow out."""

    def __init__(self, home: Callee) -> None:
        """`home`: the task that says where the workflow lives."""
        self.id = envelopes.new_event_id()
        self.rows: list[Row] = []
        self._home = home

    def steps(self, parts: Parts, prefix: str, *, of: str = "", after: str = "", name: str = "") -> Steps:
        """The steps of a chain. `prefix`: of their names; `name`: of the only one there is."""
        planned: list[Call | Fork] = []
        for number, part in enumerate(parts, 1):
            step = name or f"{prefix}{number}"
            if isinstance(part, Group):
                members = [self._member(member, f"{step}.{n}", step, after) for n, member in enumerate(part.members, 1)]
                planned.append(Fork(id=call_id(self.id, step), members=tuple(members)))
            else:
                planned.append(self._call(part, step, has_value=bool(after)))
                is_last = number == len(parts)
                self.rows.append(Row(step, part.task.name, after, of if is_last else ""))
            after = step
        return tuple(planned)

    def _member(self, member: Signature[Any] | Chain[Any], step: str, of: str, after: str) -> Steps:
        if isinstance(member, Signature):
            return self.steps((member,), "", of=of, after=after, name=step)
        return self.steps(member.steps, f"{step}.", of=of, after=after)

    def _call(self, signature: Signature[Any], step: str, *, has_value: bool) -> Call:
        task = signature.task
        self._settle_in(task)
        takes_value = has_value and signature.takes_value
        arguments, takes = self._written(signature, step, takes_value=takes_value)
        return Call(
            id=call_id(self.id, step),
            step=step,
            task=task.name,
            arguments=msgspec.Raw(arguments),
            takes=takes,
            delay=signature.delay_of_call,
            on_error=tuple(self._callback(callback, step) for callback in signature.callbacks),
        )

    def _callback(self, signature: Signature[Any], step: str) -> Call:
        self._settle_in(signature.task)
        arguments, takes = self._written(signature, f"on_error of {step}", takes_value=signature.takes_value)
        return Call(
            task=signature.task.name, arguments=msgspec.Raw(arguments), takes=takes, delay=signature.delay_of_call
        )

    @staticmethod
    def _written(signature: Signature[Any], step: str, *, takes_value: bool) -> tuple[bytes, str]:
        try:
            return signature.task.written(signature.args, signature.kwargs, takes_value=takes_value)
        except TypeError as error:
            hint = "; what the step before comes to is its first argument, .si(...) takes none" if takes_value else ""
            raise TypeError(f"step {step}, {signature!r}: {error}{hint}") from None

    def _settle_in(self, task: Callee) -> None:
        """All tasks of a workflow live in one stream: what ends one step and begins the next is one atomic step."""
        home = self._home
        if task.sender is not home.sender:
            raise ConfigurationError(f"the tasks {home.name} and {task.name} are of two apps: a workflow has one")
        if task.stream != home.stream:
            raise ConfigurationError(
                f"the tasks {home.name} (stream {home.stream!r}) and {task.name} (stream {task.stream!r}) cannot be in "
                "one workflow: give them one stream"
            )


# ── what the sender holds ─────────────────────────────────────────────────────────────────────────────────────────


class WorkflowHandle(Generic[R]):
    """A workflow that was sent."""

    def __init__(self, workflow: str, parts: Parts) -> None:
        #: The id of the workflow: `streamtask inspect workflow ID`.
        self.id = workflow
        #: The task of its last call, or those of the last calls of its last group's members.
        self._tasks = _last_tasks(parts[-1])
        self._is_list = isinstance(parts[-1], Group)
        self._final = call_id(workflow, str(len(parts)))

    async def result(self, timeout: float | None = None) -> R:
        """What the workflow comes to, once its last call is done, or all of its last group are.

        Raises:
            TaskFailedError: one of its calls was given up; the error says which, and has its traceback.
            TaskCancelledError: it was cancelled, or one of its calls was.
            ResultTimeoutError: it has not ended within `timeout` seconds. It goes on.
        """
        sender, stream = self._place()
        body = await sender.wait_for_result(stream, self._final, timeout=timeout)
        return (
            self._values(body, await sender.group_values(stream, self._final)) if self._is_list else self._value(body)
        )

    def get(self, timeout: float | None = None) -> R:
        """The same for code that cannot await."""
        sender, stream = self._place()
        body = sender.sync.wait_for_result(stream, self._final, timeout=timeout)
        if not self._is_list:
            return self._value(body)
        return self._values(body, sender.sync.group_values(stream, self._final))

    async def cancel(self) -> bool:
        """Have none of its calls begun any more, and those that run ended, as `Handle.cancel` ends one.

        Who waits for the result is told at once. False: it has a result or a failure already, which stays.
        """
        task = self._tasks[0]
        return await task.sender.cancel_workflow(task.stream, self.id, self._cancelled())

    def revoke(self) -> bool:
        """The same for code that cannot await."""
        task = self._tasks[0]
        return task.sender.sync.cancel_workflow(task.stream, self.id, self._cancelled())

    def _cancelled(self) -> Result | None:
        # The values of a last group are kept for as long as the workflow was sent with, which the handle does not know.
        ttl = TTL if self._is_list else self._tasks[0].result_ttl
        return None if ttl is None else Keeping(ttl=ttl).cancelled(self._final)

    def _place(self) -> tuple[Sender, str]:
        task = self._tasks[0]
        if task.result_ttl is None and not self._is_list:
            raise ConfigurationError(
                f"the workflow ends with the task {task.name}, which keeps no results: result_ttl is None"
            )
        return task.sender, task.stream

    def _value(self, body: bytes) -> R:
        value: R = self._tasks[0].load(body)
        return value

    def _values(self, body: bytes, found: Mapping[int, bytes]) -> R:
        value_of(body, of=repr(self))
        if len(found) < len(self._tasks):
            raise NotFoundError(f"the values of the last group of workflow {self.id} are gone: their time has run out")
        values: Any = [task.load_value(found[index]) for index, task in enumerate(self._tasks)]
        return values  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"


def _last_tasks(last: Signature[Any] | Group[Any]) -> list[Callee]:
    """The task of a call, or those of the last calls of a group's members."""
    if isinstance(last, Signature):
        return [last.task]
    ends = [member.steps[-1] if isinstance(member, Chain) else member for member in last.members]
    return [end.task for end in ends if isinstance(end, Signature)]
