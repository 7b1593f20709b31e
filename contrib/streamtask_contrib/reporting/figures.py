"""What a process has counted, read from the registry of its app. It keeps and publishes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prometheus_client import CollectorRegistry, ProcessCollector

#: How a settled delivery is counted. What was not this service's to do, or is done later on purpose, is neither.
_HANDLED = frozenset({"done", "deduplicated"})
_DEAD = frozenset({"dead", "rejected"})
_FAILED = frozenset({"retry", "timeout"}) | _DEAD

#: Counters that say what was done for users, as they are called in `UsageMetrics`; those that a service lacks are left
#: out.
_AMOUNTS = {
    "streamtask_audio_processed_seconds_total": "audio_seconds",
    "streamtask_translation_sentences_total": "translated_sentences",
    "streamtask_published_total": "published_events",
}


@dataclass(slots=True)
class Counts:
    """What stands in a registry at one moment; all of it counts from the start of the process."""

    handled: float = 0.0
    failed: float = 0.0
    dead: float = 0.0
    #: By its name in `UsageMetrics`.
    amounts: dict[str, float] = field(default_factory=dict)
    #: Runs of handlers that took at most so many seconds, by this bound.
    durations: dict[float, float] = field(default_factory=dict)
    #: Handlers that run now; None where this process runs no worker.
    running: float | None = None


def counts(registry: CollectorRegistry) -> Counts:
    """Read a registry."""
    found = Counts()
    for family in registry.collect():
        for sample in family.samples:
            _add(found, sample.name, sample.labels, sample.value)
    return found


def _add(found: Counts, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "streamtask_events_total":
        outcome = labels["outcome"]
        found.handled += value * (outcome in _HANDLED)
        found.failed += value * (outcome in _FAILED)
        found.dead += value * (outcome in _DEAD)
    elif name == "streamtask_handler_duration_seconds_bucket":
        bound = float(labels["le"])
        found.durations[bound] = found.durations.get(bound, 0.0) + value
    elif name == "streamtask_in_flight":
        found.running = (found.running or 0.0) + value
    elif name in _AMOUNTS:
        found.amounts[_AMOUNTS[name]] = found.amounts.get(_AMOUNTS[name], 0.0) + value


def quantiles(earlier: Counts, later: Counts, shares: Sequence[float]) -> list[float] | None:
    """The durations below which these shares of the runs between two moments were; None where there were none.

    Within a bucket runs are taken to be spread evenly; what is above the last bound is told as that bound.
    """
    bounds = sorted(later.durations)
    below = [later.durations[bound] - earlier.durations.get(bound, 0.0) for bound in bounds]
    if not below or below[-1] <= 0:
        return None
    return [_quantile([0.0, *bounds], [0.0, *below], share * below[-1]) for share in shares]


def _quantile(bounds: Sequence[float], below: Sequence[float], wanted: float) -> float:
    for (low, high), (before, until) in zip(pairwise(bounds), pairwise(below), strict=True):
        if until >= wanted and until > before:
            return low if high == float("inf") else low + (high - low) * (wanted - before) / (until - before)
    return bounds[-2]


def runs(earlier: Counts, later: Counts) -> float:
    """How many handlers have ended between two moments."""
    return max(later.durations.values(), default=0.0) - max(earlier.durations.values(), default=0.0)


def resident_bytes() -> float | None:
    """The memory of this process; None where the system does not say."""
    for family in ProcessCollector(registry=None).collect():
        for sample in family.samples:
            if sample.name == "process_resident_memory_bytes":
                return sample.value
    return None
