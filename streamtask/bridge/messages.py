"""A message of a Celery queue as the event of a task, or why it is none. Does no I/O.

The message protocol is Celery's second (its default since version 4): headers name task and id, the body is
`[args, kwargs, embed]`. Of content types JSON alone is read, by kombu's reader, which makes dates, decimals, UUIDs and
bytes again what they were. Pickle is never looked into: it would run what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from kombu import serialization
from kombu.exceptions import KombuError
from pydantic import ValidationError

from streamtask import compression
from streamtask.app import App
from streamtask.envelope import new_trace_id
from streamtask.errors import EnvelopeError, StreamtaskError
from streamtask.task import Task
from streamtask.transport.values import Outgoing

#: Of content types, these.
_ACCEPTED = frozenset({"application/json"})
#: Parts of a workflow that stand in the body: what they would do afterwards is not known here.
_AFTERWARDS = {
    "chain": "a chain goes on after it",
    "chord": "it counts for a chord",
    "callbacks": "it has callbacks (link)",
    "errbacks": "it has errbacks (link_error)",
}
#: Bytes of a body, decompressed: far above what an event may have.
_MOST = 16 << 20
#: Problems of arguments that a reason names.
_TOLD = 5
#: Arguments and keyword arguments, and what belongs to a workflow.
_PARTS = 3


# As in `streamtask.serializers`: kombu does not say what it takes.
_loads: Callable[..., object] = serialization.loads


class CeleryMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it stood in its queue."""

    headers: Mapping[str, Any]
    body: bytes
    content_type: str
    content_encoding: str

    @property
    def task(self) -> str:
        """Name of the task; empty where it has none."""
        return str(self.headers.get("task") or "")

    @property
    def task_id(self) -> str:
        """Id of the call; empty where it has none."""
        return str(self.headers.get("id") or "")


class Refused(Exception):  # noqa: N818 - an answer, not an error of the program
    """Why a message cannot become an event. It stays a message."""


class Expired(Exception):  # noqa: N818 - as above
    """The time in which its sender wanted it to run is over."""


def tasks_of(app: App) -> dict[str, Task[Any, Any, Any, Any]]:
    """The tasks of an app by the names by which they are called."""
    return {task.name: task for task in app.tasks}


def convert(
    message: CeleryMessage, app: App, tasks: Mapping[str, Task[Any, Any, Any, Any]], *, now: datetime, window: float
) -> Outgoing:
    """A message as an event whose id is that of the call; stored once for it within `window` seconds.

    Raises:
        Refused: it cannot become one; the text says why.
        Expired: it was to run before `now`.
    """
    if not (message.task and message.task_id):
        raise Refused("it is not of Celery's message protocol 2: its headers name no task and id")
    task = tasks.get(message.task)
    if task is None:
        known = ", ".join(sorted(tasks)) or "none"
        raise Refused(f"the app has no task of the name {message.task!r}; it has {known}")
    expires = _moment(message, "expires")
    if expires is not None and expires <= now:
        raise Expired
    args, kwargs = _arguments(message)
    at = _moment(message, "eta")
    try:
        event = task.call(args, kwargs)
        outgoing = app.broker.outgoing(event, message.task_id, new_trace_id(), at=at, dedup_key=message.task_id)
    except ValidationError as error:
        # Without the values: the text goes to the log.
        problems = error.errors(include_url=False, include_context=False, include_input=False)[:_TOLD]
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in problems)
        raise Refused(f"its arguments do not fit {message.task}: {said}") from None
    except (TypeError, StreamtaskError) as error:
        raise Refused(f"its arguments do not fit {message.task}: {error}") from error
    return msgspec.structs.replace(outgoing, dedup_window=window)


def _arguments(message: CeleryMessage) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its arguments. Raises Refused."""
    if message.content_type not in _ACCEPTED:
        raise Refused(f"its content type is {message.content_type!r}; of those JSON alone is read, pickle never")
    try:
        body = _loads(_plain(message), message.content_type, message.content_encoding, accept=_ACCEPTED)
    except (KombuError, EnvelopeError, LookupError, ValueError, RecursionError) as error:
        raise Refused(f"its body cannot be read: {error}") from error
    match body:
        case [list() as args, dict() as kwargs, embed] if len(body) == _PARTS:
            known = embed if isinstance(embed, dict) else {}
            if afterwards := [text for name, text in _AFTERWARDS.items() if known.get(name)]:
                raise Refused(f"it is part of a workflow of Celery: {', '.join(afterwards)}")
            return tuple(args), kwargs
    raise Refused("its body is not that of Celery's message protocol 2: [args, kwargs, embed]")


def _plain(message: CeleryMessage) -> bytes:
    """Its body, decompressed within bounds."""
    word = message.headers.get("compression")
    if not word:
        return message.body
    known = compression.BY_WORD.get(str(word))
    if known is None:
        raise EnvelopeError(f"{word!r} is no compression that is known here")
    return compression.decompress(known, message.body, _MOST)


def _moment(message: CeleryMessage, name: str) -> datetime | None:
    """A moment in its headers. Raises Refused."""
    text = message.headers.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise Refused(f"its header {name} is no moment: {str(text)[:80]!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
