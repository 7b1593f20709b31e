"""What happened, told by those to whom it happened: an account that is kept outside of the transport.

Publishers say what they sent and what they were told, handlers that they ran, the network which outcomes the server
has taken. What follows from it is said in `promises.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from streamtask.transport.values import Dead, Delivery, Done, Outcome, Skip, Verdict


class Place(NamedTuple):
    """An entry in a group."""

    stream: str
    group: str
    entry_id: str


class Taken(NamedTuple):
    """An outcome that the server took."""

    moment: int
    deliveries: int
    outcome: Outcome
    verdict: Verdict

    @property
    def is_final(self) -> bool:
        """Whether the entry has left its group."""
        return isinstance(self.outcome, Done | Dead | Skip)


@dataclass(slots=True)
class Sent:
    """An event that somebody began to publish."""

    kind: str
    #: When `publish` returned; None: it has not.
    returned: int | None = None
    #: It was acknowledged by a server whose last writes went down with it.
    is_excused: bool = False


@dataclass(slots=True)
class Oracle:
    """The account of one run. Events are known by their number, handlers by "stream/group"."""

    now: Callable[[], float]
    sent: dict[int, Sent] = field(default_factory=dict)
    #: Runs that began, and attempts that returned and that raised.
    begun: Counter[tuple[int, str]] = field(default_factory=Counter)
    handled: Counter[tuple[int, str]] = field(default_factory=Counter)
    raised: Counter[tuple[int, str]] = field(default_factory=Counter)
    #: When the server had kept which step of an event.
    checkpoints: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    taken: dict[Place, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    #: Outcomes that came too late.
    refused: int = 0
    #: What has gone wrong already.
    wrong: list[str] = field(default_factory=list)
    #: Every step, in order.
    lines: list[str] = field(default_factory=list)

    @property
    def moment(self) -> int:
        """Now, as a number that grows with each step."""
        return len(self.lines)

    @property
    def digest(self) -> str:
        """Two runs with one digest went the same way."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def trace(self, line: str) -> None:
        """Note a step, for whoever looks into a failure."""
        self.lines.append(f"{self.now():9.3f}  {line}")

    def sending(self, n: int, kind: str) -> None:
        """A publisher begins."""
        self.sent.setdefault(n, Sent(kind))

    def returned(self, n: int) -> None:
        """`publish` returned."""
        self.trace(f"published {n} {self.sent[n].kind}")
        self.sent[n].returned = self.moment

    def starts(self, n: int, place: str, worker: str) -> None:
        """A handler begins."""
        self.begun[n, place] += 1
        self.trace(f"{worker} {place} runs {n}")

    def ends(self, n: int, place: str, worker: str, *, returned: bool) -> None:
        """A handler returned, or raised."""
        (self.handled if returned else self.raised)[n, place] += 1
        self.trace(f"{worker} {place} ran {n}: {'returned' if returned else 'raised'}")

    def checkpointed(self, n: int, step: int) -> None:
        """The server has kept how far a handler is."""
        self.trace(f"checkpoint {n} {step}")
        self.checkpoints[n].append((self.moment, step))

    def resumed(self, n: int, step: int) -> None:
        """A handler goes on: not before what the server had kept by then."""
        self.trace(f"resume {n} {step}")
        kept = max((step for _, step in self.checkpoints[n]), default=0)
        if step < kept:
            self.wrong.append(f"went back: {n} was checkpointed at {kept} and goes on at {step}")

    def settled(self, delivery: Delivery, outcome: Outcome, verdict: Verdict) -> None:
        """The server answered to an outcome."""
        place = Place(delivery.stream, delivery.group, delivery.entry_id)
        self.trace(f"settle {'/'.join(place)} {type(outcome).__name__} {verdict.value}")
        if verdict is Verdict.LOST:
            self.refused += 1
            return
        for earlier in self.taken[place]:
            if earlier.deliveries == delivery.deliveries:
                self.wrong.append(f"settled twice: {place}, delivery {delivery.deliveries}")
            elif earlier.is_final:
                self.wrong.append(f"settled again after {type(earlier.outcome).__name__}: {place}")
        self.taken[place].append(Taken(self.moment, delivery.deliveries, outcome, verdict))

    def rolled_back(self, to: int) -> None:
        """The server has lost what came after a moment."""
        self.trace("rolled back")
        for sent in self.sent.values():
            sent.is_excused |= sent.returned is not None and sent.returned > to
        for n, kept in self.checkpoints.items():
            self.checkpoints[n] = [(moment, step) for moment, step in kept if moment <= to]
        for place, taken in self.taken.items():
            self.taken[place] = [each for each in taken if each.moment <= to]
