"""Metrics: plain counts, turned into Prometheus samples only when somebody asks (`exposition.py`).

The worker and the publisher count here, on the event loop and in other threads; a count is a dictionary look-up and an
addition under one lock, well under a microsecond. This module never measures anything itself, never reads a clock, and
never lets a foreign producer decide how many time series there are.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, Literal, Protocol, get_args

from streamtask.redact import mask_text

#: What a settlement is counted as.
SettledAs = Literal[
    "done",  # handled, effects committed
    "retry",  # the handler failed and runs again
    "retry_later",  # the handler asked to run again, not a failure
    "timeout",  # the handler ran out of time and runs again
    "dead",  # given up, now a dead letter
    "rejected",  # the handler refused the event, now a dead letter
    "cancelled",  # a task that nobody wanted any more: effects dropped
    "released",  # handed back, nobody's fault
    "skipped",  # not for this group
    "waiting",  # kept for workers that know this type or version
    "deduplicated",  # handled before: effects dropped
]
OUTCOMES: tuple[str, ...] = get_args(SettledAs)
#: Outcomes after which the event runs again in the same group, because of its handler.
RETRIED = frozenset({"retry", "retry_later", "timeout"})
#: Outcomes to which no handler belongs: they have no duration.
NOT_RUN = frozenset({"skipped", "waiting"})

#: Upper bounds in seconds, 1 ms to 1 h; longer runs are in +Inf only.
BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0,
)  # fmt: skip

#: Label sets of one metric; whatever comes beyond is counted under OTHER.
MAX_LABEL_SETS = 1_000
#: Characters of a label's value.
LABEL_LIMIT = 200
#: The label of everything that was not announced, or came too late to have a series of its own.
OTHER = "other"

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the reference: a metric and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    meaning: str


_GROUP = ("stream", "group")
_TYPE = ("stream", "group", "type")
_EVENTS = "streamtask_events_total"
DURATION = "streamtask_handler_duration_seconds"
_IN_FLIGHT = "streamtask_in_flight"

#: Every metric there is. The collector and the reference page are both made from it.
TABLE: tuple[Metric, ...] = (
    Metric(_EVENTS, "counter", (*_TYPE, "outcome"), f"Settled deliveries by outcome: {', '.join(OUTCOMES)}."),
    Metric(DURATION, "histogram", ("group", "type"), "Seconds that one attempt of a handler took."),
    Metric(_IN_FLIGHT, "gauge", ("group",), "Handlers running in this process now."),
    Metric("streamtask_fetched_total", "counter", _GROUP, "New entries handed to this process."),
    Metric("streamtask_retries_total", "counter", _TYPE, "Events to run again: outcomes retry, retry_later, timeout."),
    Metric("streamtask_dead_total", "counter", (*_GROUP, "reason"), "Events given up as dead letters, by reason."),
    Metric("streamtask_skipped_total", "counter", _GROUP, "Events acked because their type is not for this group."),
    Metric("streamtask_deduplicated_total", "counter", _TYPE, "Events whose effects were committed before."),
    Metric("streamtask_lease_lost_total", "counter", _GROUP, "Deliveries that another consumer took over meanwhile."),
    Metric("streamtask_reclaimed_total", "counter", (*_GROUP, "cause"), "Entries taken back to work, by cause."),
    Metric(
        "streamtask_gone_total", "counter", _GROUP, "Pending entries that vanished from the stream: lost data. Alarm."
    ),
    Metric("streamtask_transport_errors_total", "counter", ("kind",), "Failures of the connection or the server."),
    Metric("streamtask_published_total", "counter", ("stream",), "Events stored by this process."),
    Metric("streamtask_publish_failed_total", "counter", ("stream",), "Events not known to be stored."),
    Metric("streamtask_lag", "gauge", _GROUP, "Entries that the group has not read yet. Absent where unknown."),
    Metric("streamtask_lag_seconds", "gauge", _GROUP, "Age of the oldest entry not read yet. Absent where unknown."),
    Metric("streamtask_pending", "gauge", _GROUP, "Entries delivered and not acked, parked retries included."),
    Metric("streamtask_oldest_pending_seconds", "gauge", _GROUP, "Age of the oldest entry not acked. Absent if none."),
    Metric("streamtask_dead_letters", "gauge", _GROUP, "Dead letters standing in the dead-letter stream."),
    Metric("streamtask_consumers", "gauge", _GROUP, "Consumers that the group has on the server."),
)
_ROWS: Mapping[str, Metric] = {metric.name: metric for metric in TABLE}


class Stats(Protocol):
    """What `set_stats` reads: the port's `GroupStats`, named by shape because that layer is above this one."""

    @property
    def stream(self) -> str:
        """Short name."""

    @property
    def group(self) -> str:
        """Name."""

    @property
    def consumers(self) -> int:
        """On the server."""

    @property
    def pending(self) -> int:
        """Delivered and not acked."""

    @property
    def lag(self) -> int | None:
        """Entries not read yet; None where unknown."""

    @property
    def lag_seconds(self) -> float | None:
        """Age of the oldest entry not read yet; None where unknown."""

    @property
    def oldest_pending(self) -> float | None:
        """Age of the oldest entry not acked, in seconds."""

    @property
    def dead(self) -> int:
        """Dead letters."""


class _Durations:
    """The runs of one (group, type): how many fell into each bucket (not cumulated), and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class _Series:
    """One label set of `streamtask_events_total`, with the durations that its runs add to."""

    __slots__ = ("count", "durations")

    def __init__(self, durations: _Durations | None) -> None:
        self.count = 0
        self.durations = durations


class Metrics:
    """The counts of one process.

    `registry`: a `prometheus_client.CollectorRegistry` to register with; by default one of its own. Give
    `prometheus_client.REGISTRY` to have them among an application's other metrics.
    """

    def __init__(self, *, registry: Any = None) -> None:
        self._registry: Any = None
        self._known: frozenset[str] = frozenset()
        self._watched: tuple[Callable[[], Mapping[str, int]], ...] = ()
        self._clear()
        if registry is not None:
            self._registry = _exposition().registered(self, registry)
        # A forked child counts for itself, from zero; and another thread may have held the lock at the fork.
        clear = weakref.WeakMethod(self._clear)
        os.register_at_fork(after_in_child=lambda: _call(clear))

    def _clear(self) -> None:
        self._lock = Lock()
        self._events: dict[tuple[str, str, str, str], _Series] = {}
        self._durations: dict[Labels, _Durations] = {}
        self._gauges: dict[Labels, Stats] = {}
        self._counts: dict[str, dict[Labels, int]] = {row.name: {} for row in TABLE if row.kind == "counter"}

    # ── counting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def know(self, types: Iterable[str]) -> None:
        """Announce event types. All others are labelled "other": they come from foreign producers."""
        with self._lock:
            self._known = self._known.union(types)

    def settled(
        self, stream: str, group: str, event_type: str, outcome: SettledAs, runs: Collection[float | None] = (None,)
    ) -> None:
        """Deliveries were settled; `runs` says of each how many seconds its handler ran, None where none ran."""
        key = (stream, group, event_type if event_type in self._known else OTHER, outcome)
        with self._lock:
            series = self._events.get(key)
            if series is None:
                series = self._open(key)
            series.count += len(runs)
            durations = series.durations
            if durations is None:
                return
            took = [seconds for seconds in runs if seconds is not None]
            durations.total += sum(took)
            if took and max(took) <= BUCKETS[0]:
                durations.counts[0] += len(took)
                return
            for seconds in took:
                durations.counts[bisect_left(BUCKETS, seconds)] += 1

    def fetched(self, stream: str, group: str, n: int) -> None:
        """`n` new entries were handed to this process."""
        self._add("streamtask_fetched_total", (stream, group), n)

    def reclaimed(self, stream: str, group: str, n: int, cause: str) -> None:
        """`n` entries came back to work: due retries, or those of an owner that is gone."""
        self._add("streamtask_reclaimed_total", (stream, group, cause), n)

    def lease_lost(self, stream: str, group: str, n: int = 1) -> None:
        """`n` held deliveries belong to another consumer now."""
        self._add("streamtask_lease_lost_total", (stream, group), n)

    def dead(self, stream: str, group: str, reason: str) -> None:
        """One event was given up."""
        self._add("streamtask_dead_total", (stream, group, reason), 1)

    def gone(self, stream: str, group: str, n: int = 1) -> None:
        """`n` pending entries were no longer in the stream."""
        self._add("streamtask_gone_total", (stream, group), n)

    def transport_error(self, kind: str) -> None:
        """The connection or the server failed."""
        self._add("streamtask_transport_errors_total", (kind,), 1)

    def published(self, stream: str, n: int = 1) -> None:
        """`n` events were stored."""
        self._add("streamtask_published_total", (stream,), n)

    def publish_failed(self, stream: str, n: int = 1) -> None:
        """`n` events are not known to be stored."""
        self._add("streamtask_publish_failed_total", (stream,), n)

    # ── gauges ────────────────────────────────────────────────────────────────────────────────────────────────────

    def watch_in_flight(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Ask `read` for the running handlers by group at each scrape. It is called in the scrape's thread."""
        with self._lock:
            self._watched = (*self._watched, read)

    def unwatch_in_flight(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Ask no longer; nothing happens where it was not asked."""
        with self._lock:
            self._watched = tuple(watched for watched in self._watched if watched != read)

    def set_stats(self, stats: Stats) -> None:
        """Keep what the transport said last about one group. What it could not tell (None) has no sample."""
        key = (_label(stats.stream), _label(stats.group))
        with self._lock:
            if key in self._gauges or len(self._gauges) < MAX_LABEL_SETS:
                self._gauges[key] = stats

    def clear_stats(self) -> None:
        """Forget every group's stats: no sample is better than one that stands still while the server is away."""
        with self._lock:
            self._gauges.clear()

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def registry(self) -> Any:
        """The `prometheus_client.CollectorRegistry` that has these metrics.

        Made when it is asked for: a program that only publishes, or a worker that nobody scrapes, need not import it.
        """
        if self._registry is None:
            self._registry = _exposition().registered(self)
        return self._registry

    def render(self) -> bytes:
        """Everything in the registry, in Prometheus' text format (`exposition.CONTENT_TYPE`)."""
        rendered: bytes = _exposition().rendered(self.registry)
        return rendered

    def snapshot(self) -> dict[str, dict[Labels, float]]:
        """Every sample: metric name -> label values (in the order of `TABLE`) -> value.

        A histogram is given as its `_count` and its `_sum`.
        """
        with self._lock:
            samples: dict[str, dict[Labels, float]] = {name: dict(counts) for name, counts in self._counts.items()}
            events = {key: series.count for key, series in self._events.items()}
            runs = {key: (sum(durations.counts), durations.total) for key, durations in self._durations.items()}
            stats = dict(self._gauges)
        samples[_EVENTS] = dict(events.items())
        samples |= _derived(events)
        samples[f"{DURATION}_count"] = {key: count for key, (count, _) in runs.items()}
        samples[f"{DURATION}_sum"] = {key: total for key, (_, total) in runs.items()}
        return samples | _measured(stats) | {_IN_FLIGHT: self._in_flight()}

    def total(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples that carry these labels."""
        row = _ROWS[name.removesuffix("_count").removesuffix("_sum")]
        wanted = {row.labels.index(label): value for label, value in labels.items()}
        samples = self.snapshot()[name]
        return sum(value for key, value in samples.items() if all(key[i] == label for i, label in wanted.items()))

    def durations(self) -> list[tuple[Labels, list[int], float]]:
        """Of each (group, type): how many runs fell into each of `BUCKETS` and beyond, not cumulated, and their sum."""
        with self._lock:
            return [(key, durations.counts.copy(), durations.total) for key, durations in self._durations.items()]

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, name: str, labels: Labels, n: int) -> None:
        with self._lock:
            counts = self._counts[name]
            if labels not in counts:
                labels = tuple(map(_label, labels))
                if labels not in counts and len(counts) >= MAX_LABEL_SETS - 1:
                    labels = (OTHER,) * len(labels)
            counts[labels] = counts.get(labels, 0) + n

    def _open(self, key: tuple[str, str, str, str]) -> _Series:
        """Find or make the series of a label set that is not there as it stands. The lock is held."""
        stream, group, event_type, outcome = map(_label, key)
        outcome = outcome if outcome in OUTCOMES else OTHER
        key = (stream, group, event_type, outcome)
        # The overflow keeps the outcome: retries and duplicates are counted from it.
        if key not in self._events and len(self._events) >= MAX_LABEL_SETS - len(OUTCOMES) - 1:
            key = (OTHER, OTHER, OTHER, outcome)
        series = self._events.get(key)
        if series is None:
            series = self._events[key] = _Series(None if outcome in NOT_RUN else self._durations_of(key[1], key[2]))
        return series

    def _durations_of(self, group: str, event_type: str) -> _Durations:
        key = (group, event_type)
        if key not in self._durations and len(self._durations) >= MAX_LABEL_SETS - 1:
            key = (OTHER, OTHER)
        return self._durations.setdefault(key, _Durations())

    def _in_flight(self) -> dict[Labels, float]:
        running: dict[Labels, float] = {}
        for read in self._watched:
            for group, count in read().items():
                key = (_label(group),)
                running[key] = running.get(key, 0) + count
        return running


def _derived(events: Mapping[tuple[str, str, str, str], int]) -> dict[str, dict[Labels, float]]:
    """Counters that are sums of `streamtask_events_total`: they cost nothing until they are asked for."""
    retries: dict[Labels, float] = {}
    skipped: dict[Labels, float] = {}
    duplicates: dict[Labels, float] = {}
    for (stream, group, event_type, outcome), count in events.items():
        if outcome in RETRIED:
            retries[stream, group, event_type] = retries.get((stream, group, event_type), 0) + count
        elif outcome == "skipped":
            skipped[stream, group] = skipped.get((stream, group), 0) + count
        elif outcome == "deduplicated":
            duplicates[stream, group, event_type] = count
    return {
        "streamtask_retries_total": retries,
        "streamtask_skipped_total": skipped,
        "streamtask_deduplicated_total": duplicates,
    }


def _measured(stats: Mapping[Labels, Stats]) -> dict[str, dict[Labels, float]]:
    values: dict[str, dict[Labels, float | None]] = {
        "streamtask_lag": {key: of.lag for key, of in stats.items()},
        "streamtask_lag_seconds": {key: of.lag_seconds for key, of in stats.items()},
        "streamtask_pending": {key: of.pending for key, of in stats.items()},
        "streamtask_oldest_pending_seconds": {key: of.oldest_pending for key, of in stats.items()},
        "streamtask_dead_letters": {key: of.dead for key, of in stats.items()},
        "streamtask_consumers": {key: of.consumers for key, of in stats.items()},
    }
    return {
        name: {key: value for key, value in of_groups.items() if value is not None}
        for name, of_groups in values.items()
    }


def _exposition() -> Any:
    # prometheus_client takes a tenth of a worker's start.
    return import_module("streamtask.telemetry.exposition")


def _label(text: str) -> str:
    """A label's value as it may leave the process: without secrets, bounded, encodable (a lone surrogate is not)."""
    if "://" in text:
        text = mask_text(text)
    return text[:LABEL_LIMIT].encode("utf-8", "replace").decode("utf-8")


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    bound = method()
    if bound is not None:
        bound()
