"""The numbers by which is judged: what is not learned. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Below a floor nothing is unusual, however unusual it is."""

    #: Between two looks. A longer gap counts as this long: in time that nobody has watched nothing was seen to stall.
    interval: float = 5.0
    #: Work waits, and nothing is done for so long: stalled.
    stalled: float = 20.0
    #: The same where the handlers that run have said how far they are, and say no more.
    stalled_in_progress: float = 300.0
    #: The same of one event that runs alone, while nothing else waits: it may take long, and harms nobody else.
    stalled_alone: float = 4 * 3600.0
    #: Groups whose handlers may be silent for longer, by name.
    patience: Mapping[str, float] = field(default_factory=dict)
    #: A backlog of fewer events, or whose oldest event is younger, is none.
    lag_events: float = 100.0
    lag_age: float = 30.0
    #: A growing backlog is told after so long.
    lag_grows: float = 120.0
    #: An event that is in work for less is not late.
    late: float = 300.0
    #: Handlers below this 95th percentile are fast, and no figure of fewer runs a minute is judged.
    latency: float = 0.05
    runs: float = 30.0
    #: How many times the usual is too long, and after how long that is told.
    latency_ratio: float = 2.5
    latency_lasts: float = 120.0
    #: Share of runs that may fail beyond what is usual, and the fewest runs a minute from which it is judged.
    error_share: float = 0.05
    error_runs: float = 20.0
    #: Dead letters within five minutes beyond what is usual.
    dead_letters: float = 5.0
    #: A service that says nothing for so long, and has not said that it ends, is silent.
    silent: float = 45.0
    #: A bot that has not said for so long that it lives, or has heard nobody though others are in the call.
    bot_beat: float = 45.0
    bot_audio: float = 300.0
    #: Deviations from the median that are unusual.
    deviations: float = 4.0
    #: So many anomalies of one kind within a look are told as one.
    many: int = 6
