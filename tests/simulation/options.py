"""What one seed means: how many of what, and which faults. Each seed turns on a few faults only (a swarm).

All faults at once hide each other: a server that is always away never gets to lose a reply.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong. Shares are of commands, "every" is the mean of seconds between two; 0 is never."""

    #: Share of commands and of replies that are late, up to a quarter of a second.
    delayed: float = 0.0
    #: Share of commands that never come to the server.
    command_lost: float = 0.0
    #: Share of replies that never come back, the command having run.
    reply_lost: float = 0.0
    #: Share of commands that run after their sender has given up on them.
    command_late: float = 0.0
    #: Share of commands that the server refuses with an error of its own.
    script_error: float = 0.0
    #: Share of outcomes that are refused singly, within a batch.
    outcome_refused: float = 0.0
    #: A worker's connections break.
    disconnect_every: float = 0.0
    #: A worker stands still, for as long as three leases.
    stopped_every: float = 0.0
    #: A worker is killed, and another one started.
    killed_every: float = 0.0
    #: A worker is asked to end, and another one started.
    replaced_every: float = 0.0
    #: The time of day of a worker's machine is set, up to an hour off.
    clock_set_every: float = 0.0
    #: The server is away for some seconds.
    away_every: float = 0.0
    #: The server refuses writes for some seconds: it is a replica.
    readonly_every: float = 0.0
    #: The server refuses events for some seconds: it is full.
    full_every: float = 0.0
    #: Another server takes over, which has not received the last writes.
    failover_every: float = 0.0
    #: The server comes back empty.
    forgets_every: float = 0.0

    @property
    def names(self) -> list[str]:
        """Those that are turned on."""
        return [each.name for each in fields(self) if getattr(self, each.name)]


#: Between what each fault is drawn, where it is turned on.
RANGES = {
    "delayed": (0.05, 0.5),
    "command_lost": (0.005, 0.05),
    "reply_lost": (0.005, 0.05),
    "command_late": (0.002, 0.02),
    "script_error": (0.005, 0.05),
    "outcome_refused": (0.02, 0.2),
    "disconnect_every": (2.0, 10.0),
    "stopped_every": (4.0, 15.0),
    "killed_every": (3.0, 12.0),
    "replaced_every": (5.0, 15.0),
    "clock_set_every": (2.0, 10.0),
    "away_every": (6.0, 20.0),
    "readonly_every": (6.0, 20.0),
    "full_every": (6.0, 20.0),
    "failover_every": (8.0, 20.0),
    "forgets_every": (10.0, 20.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run, expanded from its seed."""

    seed: int
    #: Whether the faults end and everything has to be finished then; else they go on to the end of the run.
    heals: bool
    workers: int
    concurrency: int
    #: Seconds.
    lease: float
    events: int
    #: Seconds over which events are published, and faults happen.
    lasts: float
    faults: Faults = field(default_factory=Faults)
    #: The fault that is turned on alone, instead of those of the seed.
    alone: str = ""

    def only(self, fault: str) -> Options:
        """The same with one fault alone, as often as it can be."""
        rarely, often = RANGES[fault]
        worst = rarely if fault.endswith("_every") else often
        return replace(self, faults=Faults(**{fault: worst}), alone=fault)

    def without(self, fault: str) -> Options:
        """The same with one fault less; for finding out which ones it takes."""
        return replace(self, faults=replace(self.faults, **{fault: 0.0}))


def expand(seed: int) -> Options:
    """The options of a seed."""
    chance = Random(f"options {seed}")
    chosen = {name: chance.uniform(*bounds) for name, bounds in RANGES.items() if chance.random() < 0.3}
    return Options(
        seed=seed,
        heals=chance.random() < 0.6,
        workers=chance.randint(2, 5),
        concurrency=chance.choice((1, 2, 4, 8)),
        lease=chance.choice((3.0, 6.0, 12.0)),
        events=chance.randint(10, 60),
        lasts=chance.uniform(8.0, 25.0),
        faults=Faults(**chosen),
    )
