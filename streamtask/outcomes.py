"""What became of a task, as it is kept for those who wait: a value, or why there is none. Pure."""

from __future__ import annotations

import msgspec

from streamtask.errors import TaskCancelledError, TaskFailedError
from streamtask.transport.values import Dead, Result


class _Returned(msgspec.Struct, tag="returned", frozen=True):
    #: JSON.
    value: msgspec.Raw


class _Failed(msgspec.Struct, tag="failed", frozen=True):
    reason: str
    error: str
    traceback: str
    attempts: int
    #: Of the call that failed: of a workflow, it is one of several.
    task: str = ""
    event_id: str = ""


class _Cancelled(msgspec.Struct, tag="cancelled", frozen=True):
    """Nobody wants it any more."""


_decode = msgspec.json.Decoder(_Returned | _Failed | _Cancelled).decode
_encode = msgspec.json.Encoder().encode
#: What is kept of a task that was cancelled, whichever it was.
CANCELLED = _encode(_Cancelled())


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """How outcomes are kept."""

    #: Seconds.
    ttl: float

    def returned(self, event_id: str, written: bytes) -> Result:
        """What was returned, as JSON."""
        return Result(event_id, _encode(_Returned(msgspec.Raw(written))), self.ttl)

    def failed(self, event_id: str, dead: Dead) -> Result:
        """Why nothing will be."""
        failed = _Failed(
            reason=dead.reason,
            error=dead.error,
            traceback=dead.traceback,
            attempts=dead.attempts,
            task=dead.event_type,
            event_id=dead.event_id,
        )
        return Result(event_id, _encode(failed), self.ttl)

    def cancelled(self, event_id: str) -> Result:
        """That somebody has cancelled it."""
        return Result(event_id, CANCELLED, self.ttl)


class Ending(msgspec.Struct, frozen=True):
    """What became of a task, for people."""

    #: done, failed or cancelled.
    state: str
    #: JSON, where it is done.
    value: str | None = None
    #: Where it failed.
    reason: str | None = None
    error: str | None = None


def ending_of(body: bytes) -> Ending:
    """A kept outcome as it is shown."""
    kept = _decode(body)
    if isinstance(kept, _Returned):
        return Ending("done", value=bytes(kept.value).decode())
    if isinstance(kept, _Cancelled):
        return Ending("cancelled")
    return Ending("failed", reason=kept.reason, error=kept.error)


def value_of(body: bytes, *, of: str) -> bytes:
    """The value in a kept outcome, as JSON. `of`: which task, for people.

    Raises:
        TaskFailedError: it was given up.
        TaskCancelledError: it was cancelled.
    """
    kept = _decode(body)
    if isinstance(kept, _Returned):
        return bytes(kept.value)
    if isinstance(kept, _Cancelled):
        raise TaskCancelledError(f"{of} was cancelled before it was done; what it would have emitted was not published")
    raise TaskFailedError(
        f"{kept.task or of} failed ({kept.reason}): {kept.error}",
        reason=kept.reason,
        error=kept.error,
        traceback=kept.traceback,
        attempts=kept.attempts,
        task=kept.task or of,
        event_id=kept.event_id,
    )
