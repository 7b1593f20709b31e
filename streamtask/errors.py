"""Every error that streamtask raises, in one tree.

StreamtaskError
    ConfigurationError          the program is wrong: an unknown URL scheme, two handlers for one event, a bad option
    PublishError                unknown whether it is stored; publish again with the same `event_id`
        EventRefusedError       refused before anything was sent: this event could not be read back
        StoreFullError          the server is out of memory, or of disk, and refused the event; nothing was stored
    EnvelopeError               these bytes can never be handled: dead letter, no retry
        EnvelopeTooLargeError   more bytes than the app allows
    PayloadError                the envelope is sound, its payload does not fit the event class: dead letter, no retry
    HandlerTimeoutError         the handler ran past its hard timeout
    SoftTimeoutError            raised inside the handler at its soft timeout
    WorkerLostError             the child process that ran the handler died
    TaskFailedError             a task was given up: who asks for its result is told why, with its last traceback
    TaskCancelledError          a task was cancelled by whoever has its handle
    ResultTimeoutError          a task's result has not come in time; the task goes on
    LeaseLostError              another consumer owns the entry now: the outcome was dropped, the checkpoint refused
    TransportError              the connection, not the event; retried by the worker
    NotFoundError               what was asked for is not on the server, or not any more
    InUseError                  what was to be removed is in use; nothing was changed
    RetryLater                  raised by a handler: again after a delay, not counted as a failure
    Reject                      raised by a handler: dead-letter now
    BatchError                  raised by a batch handler: these of its events failed, the others are done
        BlobError               a blob that can never be read or stored as asked for: a handler's event is dead-lettered
            BlobMissingError    there is none, or not any more
            BlobRefusedError    its URI is outside of what the app allows; nothing was read
            BlobTooLargeError   it has more bytes than the app allows
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

#: Errors of a batch that are named in one text.
_NAMED: Final = 5


class StreamtaskError(Exception):
    """Base of every error this package raises."""


class ConfigurationError(StreamtaskError):
    """The program or its settings are wrong; nothing was read or written."""


class PublishError(StreamtaskError):
    """Nothing is known about the event: it may or may not be stored.

    Publishing again with `event_id=error.event_id` stores it once. From `publish_many`, `unsure` has the place of each
    event that is not known to be stored, and its id; all others are stored.
    """

    def __init__(self, message: str, *, event_id: str) -> None:
        super().__init__(message)
        self.event_id = event_id
        self.unsure: dict[int, str] = {0: event_id}


class EventRefusedError(PublishError):
    """The event could not be read back by a consumer, so it was not sent."""


class StoreFullError(PublishError):
    """The server is out of memory, or cannot write to its disk, and refused the event; nothing was stored.

    Without memory it is drained by its workers as before; without disk it takes nothing from them, either.
    """


class TaskFailedError(StreamtaskError):
    """A task was given up, and is a dead letter of its group."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        error: str,
        traceback: str,
        attempts: int,
        task: str = "",
        event_id: str = "",
    ) -> None:
        """`reason`: as in the dead letter, such as "max_attempts". `error`: of the last attempt, class and words.

        `task`, `event_id`: which call it was; of a workflow, one of several.
        """
        super().__init__(message)
        self.task = task
        self.event_id = event_id
        self.reason = reason
        self.error = error
        self.traceback = traceback
        self.attempts = attempts
        if traceback:
            self.add_note(f"\nWhere it was raised, in a worker:\n\n{traceback}")


class TaskCancelledError(StreamtaskError):
    """A task was cancelled by whoever has its handle, before it was done: it has no result."""


class ResultTimeoutError(StreamtaskError, TimeoutError):
    """A task's result has not come in time. It still runs, or waits to; its handle may be asked again."""


class EnvelopeError(StreamtaskError):
    """These bytes are not an envelope and never will be."""


class EnvelopeTooLargeError(EnvelopeError):
    """The envelope is larger than the app allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the envelope has {size} bytes or more; the limit is {limit}")
        self.size = size
        self.limit = limit


class PayloadError(StreamtaskError):
    """The payload does not fit the event class (or an upcaster failed on it)."""


class HandlerTimeoutError(StreamtaskError):
    """The handler ran longer than its hard timeout."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"timeout: the handler ran longer than {seconds:g} s")
        self.seconds = seconds


class SoftTimeoutError(StreamtaskError):
    """Raised inside a handler that ran longer than its soft timeout; time to tidy up and end."""


class WorkerLostError(StreamtaskError):
    """The child process that ran the handler died before it could answer."""


class LeaseLostError(StreamtaskError):
    """Another consumer owns the entry now."""

    def __init__(self, entry_id: str, owner: str) -> None:
        super().__init__(f"the lease of {owner} on {entry_id} has passed to another consumer")
        self.entry_id = entry_id
        self.owner = owner


class TransportError(StreamtaskError):
    """The connection or the server failed, not the event. Workers retry it by themselves."""

    #: Whether what was asked for may have been done all the same.
    is_unknown = False


class NotFoundError(StreamtaskError):
    """What was asked for, by its name or id, is not on the server, or not any more."""


class InUseError(StreamtaskError):
    """What was to be removed is in use; nothing was changed."""


class RetryLater(StreamtaskError):  # noqa: N818 - a handler raises it as a request, it is no error of the program
    """Raised by a handler to run again after `delay` seconds, without counting as a failure."""

    def __init__(self, reason: str = "", *, delay: float) -> None:
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay is in seconds, from 0, got {delay}")
        super().__init__(reason or f"again in {delay:g} s")
        self.delay = delay


class Reject(StreamtaskError):  # noqa: N818 - as above
    """Raised by a handler to dead-letter the event at once, with the reason given."""


class BatchError(StreamtaskError):
    """Raised by a batch handler: some events of its list failed, each with an error of its own; the others are done.

    `BatchError({2: error})`: the third event of the list failed. Each is then treated as if its handler had raised its
    error: run again or dead-lettered by its own attempts. `RetryLater` and `Reject` mean what they mean alone.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        wrong = [index for index in errors if not isinstance(index, int) or isinstance(index, bool) or index < 0]
        if not errors or wrong or not all(isinstance(error, Exception) for error in errors.values()):
            raise ValueError(f"errors are exceptions by the place of their event in the list, from 0, got {errors!r}")
        named = "; ".join(f"{index}: {type(error).__name__}" for index, error in sorted(errors.items())[:_NAMED])
        super().__init__(f"{len(errors)} events of the batch failed ({named})")
        #: The error of each event that failed, by its place in the list.
        self.errors = dict(errors)


class BlobError(Reject):
    """A blob that can never be read or stored as asked for.

    From a handler it dead-letters the event at once. A store that cannot be reached is a `TransportError` instead.
    """


class BlobMissingError(BlobError):
    """There is no such blob, or not any more."""


class BlobRefusedError(BlobError):
    """The URI of the blob is outside of what the app allows; nothing was read."""


class BlobTooLargeError(BlobError):
    """The blob has more bytes than the app allows."""
