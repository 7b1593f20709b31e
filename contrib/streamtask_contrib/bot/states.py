"""A bot as it is written down, and what may become of it. Pure: reads no clock, does no I/O.

    requested → starting → joining → waiting_room → in_call ⇄ capturing → leaving → stopped
                                                                                   → failed

A state may be left out on the way forward; `starting` comes again where a process was lost and a new one takes its
place, with the next attempt. Each change adds a `BotStatusUpdate` to those that have to be published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from streamtask_contrib.events import BotRequested, BotState, BotStatusUpdate

#: The ends of a bot: nothing comes after them.
FINAL: frozenset[BotState] = frozenset({"stopped", "failed"})
_AFTER: Mapping[BotState | None, frozenset[BotState]] = {
    None: frozenset({"requested"}),
    "requested": frozenset({"starting", "stopped", "failed"}),
    "starting": frozenset({"starting", "joining", "leaving", "stopped", "failed"}),
    "joining": frozenset({"starting", "waiting_room", "in_call", "capturing", "leaving", "stopped", "failed"}),
    "waiting_room": frozenset({"starting", "in_call", "capturing", "leaving", "stopped", "failed"}),
    "in_call": frozenset({"starting", "waiting_room", "capturing", "leaving", "stopped", "failed"}),
    "capturing": frozenset({"starting", "waiting_room", "in_call", "leaving", "stopped", "failed"}),
    # A process that is ended for another to take its place leaves first, if it can.
    "leaving": frozenset({"starting", "stopped", "failed"}),
    "stopped": frozenset(),
    "failed": frozenset(),
}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ProcessIdentity(_Value):
    """One process of one machine, told from every other that has had or will have its number."""

    #: The machine, this start of it, and the container: where `pid` means something.
    place: str
    pid: int
    #: Seconds from the start of the machine to its own: the time of day may be set while it lives.
    started: float
    #: Its log, a file at `place`.
    log: str = ""


class Ending(_Value):
    """How a bot's process wants to be remembered: told by itself before it ends, or decided by its orchestrator."""

    state: Literal["stopped", "failed"]
    reason: str
    sub_code: str = ""
    #: A new process may have more luck.
    may_retry: bool = False


class Eviction(_Value):
    """A process has to go, whatever it does: decided once, and counted from then by whoever looks after the bot."""

    #: Whose process; it says nothing about the next one.
    attempt: int
    at: datetime
    #: Why, as the bot's status will say.
    reason: str
    #: Another process may take its place.
    may_retry: bool
    #: The `BotRecoveryRequested` that asked for it; empty: none did.
    request_id: str = ""


class Bot(_Value):
    """All that is known of one bot. Changed only as a whole, by whoever has read what stands."""

    bot_id: str
    #: None: so far somebody has only asked it to stop.
    request: BotRequested | None = None
    #: What is wanted. It is never "running" again once it was "stopped".
    desired: Literal["running", "stopped"] = "running"
    stop_reason: str = ""
    stop_requested_at: datetime | None = None

    state: BotState | None = None
    reason: str = ""
    sub_code: str = ""
    participants: tuple[str, ...] = ()
    #: Of the last status.
    sequence: int = -1
    changed_at: datetime | None = None
    #: When `state` began: who comes and goes changes a bot, but not its state.
    state_since: datetime | None = None
    #: Statuses that may not have been published yet, in order.
    unpublished: tuple[BotStatusUpdate, ...] = ()

    #: The orchestrator that looks after it; empty: none does.
    owner: str = ""
    #: How many processes it has had, this one included.
    attempt: int = 0
    #: When the process of this attempt was decided on.
    attempt_at: datetime | None = None
    process: ProcessIdentity | None = None
    #: Of the process that runs, or ran last.
    ending: Ending | None = None
    #: The last one that was decided; see `evicted`.
    eviction: Eviction | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_final(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state in FINAL

    @property
    def evicted(self) -> Eviction | None:
        """Why the process that runs, or ran last, has to go; None where it need not."""
        return self.eviction if self.eviction is not None and self.eviction.attempt == self.attempt else None

    def with_(self, **changes: object) -> Bot:
        """The same with other values of some fields; no status comes of it."""
        return self.model_copy(update=changes)

    def advanced(
        self,
        state: BotState,
        *,
        at: datetime,
        reason: str = "",
        sub_code: str = "",
        participants: Sequence[str] | None = None,
    ) -> Bot | None:
        """The bot in its next state, with the status that says so. None where that cannot come next.

        The same state again is a change where the participants are others: these stay as they are where none are given.
        """
        people = self.participants if participants is None else tuple(participants)
        follows = state in _AFTER[self.state]
        is_news = state == self.state and people != self.participants and not self.is_final
        if not follows and not is_news:
            return None
        update = BotStatusUpdate(
            bot_id=self.bot_id,
            session_id=self.request.session_id if self.request else "",
            sequence=self.sequence + 1,
            state=state,
            reason=reason,
            sub_code=sub_code,
            attempt=max(1, self.attempt),
            participants=list(people),
            changed_at=at,
        )
        return self.with_(
            state=state,
            reason=reason,
            sub_code=sub_code,
            participants=people,
            sequence=update.sequence,
            changed_at=at,
            state_since=at if follows else self.state_since,
            unpublished=(*self.unpublished, update),
        )
