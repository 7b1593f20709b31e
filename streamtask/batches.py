"""One call of a batch handler: which events it is given, and what becomes of each. Does no I/O; runs nothing.

An error of the whole call says nothing about one event of it: whoever can still run again does so, alone at last
(`is_gathered`), so that no event is given up for the fault of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamtask.broker import Broker, Run
from streamtask.context import BatchContext
from streamtask.errors import BatchError, Reject, RetryLater
from streamtask.event import Event
from streamtask.transport.values import Done, Mark, Outcome, Release

#: Attempts that an event may share with others.
_SHARED_ATTEMPTS = 2


def is_gathered(run: Run) -> bool:
    """Whether a run is to share a call with others: not a suspect, nor what has failed in company twice.

    Nor the last of several attempts: who is given up has failed alone.
    """
    if run.handler.batch is None or run.alone:
        return False
    attempt = run.delivery.attempt
    return attempt == 1 or (attempt <= _SHARED_ATTEMPTS and attempt < run.handler.retry.max_attempts)


class Member(msgspec.Struct, frozen=True):
    """One event of a call."""

    run: Run
    event: Event
    mark: Mark | None


class BatchCall:
    """The events of one call."""

    def __init__(self, broker: Broker, runs: Sequence[Run]) -> None:
        self._broker = broker
        #: What the handler is called with.
        self.members: list[Member] = []
        #: What needs no call: payloads that cannot be read, duplicates.
        self.ended: list[tuple[Run, Outcome]] = []
        for run in runs:
            try:
                event = broker.event(run)
                self.members.append(Member(run, event, broker.mark(run, event)))
            except BaseException as error:  # noqa: BLE001 - validators and `dedupe` are the user's: its event's failure
                self.ended.append((run, broker.fail(run, error)))

    def drop_duplicates(self, stands: Mapping[str, bool]) -> None:
        """Take out what has been handled before, by the names of marks that stand, and of two of one mark the second.

        It waits for what becomes of the first: it is handed back, uncharged.
        """
        kept, seen = [], set[str]()
        for member in self.members:
            mark = member.mark
            if mark is None or mark.replace:
                kept.append(member)
            elif stands[mark.name]:
                self.ended.append((member.run, Done(mark=mark)))
            elif mark.name in seen:
                self.ended.append((member.run, Release()))
            else:
                seen.add(mark.name)
                kept.append(member)
        self.members = kept

    @property
    def runs(self) -> list[Run]:
        """The runs of the members."""
        return [member.run for member in self.members]

    @property
    def events(self) -> list[Event]:
        """What the handler takes."""
        return [member.event for member in self.members]

    def succeed(self, context: BatchContext | None, returned: Any) -> list[Outcome]:
        """The handler returned: the outcome of each member. What it emits is the first one's; see `Together`."""
        return self._outcomes({}, context, returned)

    def fail(self, context: BatchContext | None, error: BaseException) -> list[Outcome]:
        """The handler raised: the outcome of each member."""
        if isinstance(error, BatchError) and max(error.errors) < len(self.members):
            try:
                return self._outcomes(error.errors, context, None)
            except BaseException as refused:  # noqa: BLE001 - of an event that was emitted: whatever its validators raise
                error = refused
        return [self._failed(member.run, error) for member in self.members]

    def _outcomes(self, errors: Mapping[int, Exception], context: BatchContext | None, returned: Any) -> list[Outcome]:
        good = [member.run for place, member in enumerate(self.members) if place not in errors]
        emitted = context.emitted if context is not None else ()
        emits = self._broker.succeed_together(good, emitted, returned) if good else ()
        outcomes: list[Outcome] = []
        for place, member in enumerate(self.members):
            if place in errors:
                outcomes.append(self._broker.fail(member.run, errors[place]))
            else:
                outcomes.append(Done(emits, member.mark))
                emits = ()
        return outcomes

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        is_last = run.delivery.attempt >= run.handler.retry.max_attempts
        if len(self.members) == 1 or is_last or isinstance(error, Reject | RetryLater):
            return self._broker.fail(run, error)
        return self._broker.again(run, error)
