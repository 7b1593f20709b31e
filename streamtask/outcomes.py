"""What became of a task, as it is kept for those who wait: a value, or why there is none. Pure."""

from __future__ import annotations

import msgspec

from streamtask.errors import TaskFailedError
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


_decode = msgspec.json.Decoder(_Returned | _Failed).decode
_encode = msgspec.json.Encoder().encode


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


def value_of(body: bytes, *, of: str) -> bytes:
    """The value in a kept outcome, as JSON. `of`: which task, for people.

    Raises:
        TaskFailedError: there is none.
    """
    kept = _decode(body)
    if isinstance(kept, _Returned):
        return bytes(kept.value)
    raise TaskFailedError(
        f"{kept.task or of} failed ({kept.reason}): {kept.error}",
        reason=kept.reason,
        error=kept.error,
        traceback=kept.traceback,
        attempts=kept.attempts,
        task=kept.task or of,
        event_id=kept.event_id,
    )
