"""What a call of a workflow carries: all that comes after it, so that nobody has to remember it.

It stands in the payload beside the arguments, as `flow`. When the call is done, its settlement emits the next one, with
the value in its arguments; a member of a group leaves its value with those of the others instead, and the last one
emits what comes after the group. Ids are made of the workflow's and of the place in it, so that a step that runs again
emits what it has emitted before. Pure; `workflow.py` makes workflows of tasks, the broker makes events of calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

import msgspec

from streamtask.errors import EnvelopeError, PayloadError
from streamtask.transport.values import Dead

#: Of the ids of calls. Never changed: a workflow that is under way must find its calls again.
_NAMESPACE = uuid.UUID("b6a51d0e-4c0c-5a3e-8f0e-3f6f5a1f1f57")

# ── on the wire ───────────────────────────────────────────────────────────────────────────────────────────────────


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call", tag_field="is", omit_defaults=True):
    """A call that is to be made."""

    #: Of the event that it becomes. Empty for a callback: that of the call that failed makes it.
    id: str = ""
    #: Its place in the workflow, for people: "2.1" is the first member of the group that is the second step.
    step: str = ""
    #: Type of the event.
    task: str
    #: A JSON object.
    arguments: msgspec.Raw
    #: The parameter that takes what the step before it comes to; empty where none does.
    takes: str = ""
    #: Seconds.
    delay: float | None = None
    #: Made when this call is given up.
    on_error: tuple[Call, ...] = ()


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag="group", tag_field="is"):
    """A group: each member is made of steps, and the last of them has its value."""

    #: Of its values.
    id: str
    members: tuple[tuple[Call | Fork, ...], ...]


Steps = tuple[Call | Fork, ...]


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A group that a call is in."""

    group: str
    index: int
    size: int
    #: What comes after the group. Nothing: the workflow ends with it.
    then: Steps = ()


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    """The values that a call takes, which are loaded when it is run."""

    group: str
    size: int
    takes: str


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call's place in its workflow."""

    workflow: str
    step: str
    #: Seconds that what is known of the workflow is kept after each of its steps.
    ttl: float
    #: Under which id the result of the workflow is kept, and for how many seconds; None: it is not.
    final: str
    final_ttl: float | None = None
    then: Steps = ()
    #: The groups that it is in, the innermost last.
    frames: tuple[Frame, ...] = ()
    collect: Collect | None = None
    on_error: tuple[Call, ...] = ()


class Ready(msgspec.Struct, frozen=True):
    """A call with its payload: to be published as it is."""

    id: str
    task: str
    payload: bytes
    delay: float | None = None


class _Payload(msgspec.Struct, omit_defaults=True):
    arguments: msgspec.Raw
    flow: Flow | None = None


_decode = msgspec.json.Decoder(_Payload).decode
_encode = msgspec.json.Encoder().encode
_decode_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def call_id(workflow: str, step: str) -> str:
    """The id of the call, or of the group, in this place."""
    # No step's name has a slash.
    return str(uuid.uuid5(_NAMESPACE, f"{step}/{workflow}"))


def flow_of(payload: bytes) -> Flow | None:
    """The place of a task's call in its workflow; None where it is in none. Raises `EnvelopeError`."""
    if b'"flow"' not in payload:
        return None
    try:
        return _decode(payload).flow
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"not a call of a workflow: {error}") from error


# ── what comes next ───────────────────────────────────────────────────────────────────────────────────────────────


def begin(steps: Steps, flow: Flow) -> list[Ready]:
    """The calls with which a workflow begins. `flow`: what is the same for all of its calls."""
    return list(_first(steps, flow, {}, None))


def after(flow: Flow, value: bytes) -> list[Ready]:
    """The calls that follow one that came to `value` (JSON), where it is not the last one of a group's member."""
    return list(_first(flow.then, flow, {"value": value}, None)) if flow.then else []


def after_group(flow: Flow) -> list[Ready]:
    """The calls that follow the group of which this call ends a member, once all of its values are there."""
    frame, outer = flow.frames[-1], flow.frames[:-1]
    if not frame.then:
        return []
    return list(_first(frame.then, msgspec.structs.replace(flow, frames=outer), {}, frame))


def _first(steps: Steps, flow: Flow, given: Mapping[str, bytes], group: Frame | None) -> Iterator[Ready]:
    """The calls with which steps begin, each with all that comes after it."""
    first, rest = steps[0], steps[1:]
    if isinstance(first, Fork):
        for index, member in enumerate(first.members):
            frame = Frame(group=first.id, index=index, size=len(first.members), then=rest)
            inner = msgspec.structs.replace(flow, frames=(*flow.frames, frame))
            yield from _first(member, inner, given, group)
        return
    collect = None
    if group is not None and first.takes:
        collect = Collect(group=group.group, size=group.size, takes=first.takes)
    carried = msgspec.structs.replace(flow, step=first.step, then=rest, collect=collect, on_error=first.on_error)
    yield Ready(first.id, first.task, _payload(first, given.get("value"), carried), first.delay)


def callbacks(flow: Flow, dead: Dead) -> list[Ready]:
    """The calls to be made because one was given up, which are told of it; their ids are not made yet."""
    value = _encode(
        {
            "workflow": flow.workflow,
            "step": flow.step,
            "task": dead.event_type,
            "event_id": dead.event_id,
            "reason": dead.reason,
            "error": dead.error,
            "attempts": dead.attempts,
        }
    )
    return [Ready("", call.task, _payload(call, value, None), call.delay) for call in flow.on_error]


def _payload(call: Call, value: bytes | None, flow: Flow | None) -> bytes:
    arguments = call.arguments
    if value is not None and call.takes:
        arguments = _with(arguments, call.takes, value)
    return _encode(_Payload(arguments, flow))


def _with(arguments: msgspec.Raw, name: str, value: bytes) -> msgspec.Raw:
    return msgspec.Raw(_encode({**_decode_arguments(arguments), name: msgspec.Raw(value)}))


def collected(payload: bytes, collect: Collect, values: Mapping[int, bytes]) -> bytes:
    """The payload of a call with the values of a group as the argument that takes them, in order.

    Raises:
        PayloadError: some are not there any more.
    """
    if len(values) < collect.size:
        raise PayloadError(
            f"{collect.size - len(values)} of the {collect.size} values of the group {collect.group} are gone: they "
            "were kept for as long as the workflow was sent with (ttl), counted from its last step"
        )
    read = _decode(payload)
    listed = b"[" + b",".join(values[index] for index in range(collect.size)) + b"]"
    return _encode(_Payload(_with(read.arguments, collect.takes, listed), read.flow))


# ── what people are shown ─────────────────────────────────────────────────────────────────────────────────────────


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A call in what a workflow is made of."""

    step: str
    task: str
    #: The step before it, a call or a group; empty: it is one of the first.
    after: str = ""
    #: The group to which its value goes.
    of: str = ""


class Definition(msgspec.Struct, frozen=True):
    """What a workflow is made of."""

    calls: tuple[Row, ...]
    #: As in `Flow`.
    final: str
    final_ttl: float | None


class CallState(msgspec.Struct, frozen=True):
    """How far a call of a workflow is."""

    step: str
    task: str
    event_id: str
    #: waiting (for the steps before it), sent, done, failed or cancelled.
    state: str


encode_definition = msgspec.json.Encoder().encode
decode_definition = msgspec.json.Decoder(Definition).decode


def call_states(workflow: str, definition: Definition, ended: Mapping[str, str]) -> list[CallState]:
    """How far each call is, in their order. `ended`: the states of those that have."""
    open_groups = {row.of for row in definition.calls if row.of and ended.get(row.step) != "done"}
    groups = {row.of for row in definition.calls}

    def state(row: Row) -> str:
        if row.step in ended:
            return ended[row.step]
        if not row.after:
            return "sent"
        there = row.after not in open_groups if row.after in groups else ended.get(row.after) == "done"
        return "sent" if there else "waiting"

    return [CallState(row.step, row.task, call_id(workflow, row.step), state(row)) for row in definition.calls]
