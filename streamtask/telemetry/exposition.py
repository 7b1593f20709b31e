"""Metrics as Prometheus has them: families and samples, made from the counts at each scrape. Counts nothing itself.

Imported where somebody scrapes, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from streamtask.errors import ConfigurationError
from streamtask.telemetry.metrics import BUCKETS, TABLE, Metric, Metrics

#: The `Content-Type` of what is rendered.
CONTENT_TYPE = CONTENT_TYPE_LATEST


def registered(metrics: Metrics, registry: CollectorRegistry | None = None) -> CollectorRegistry:
    """The registry, by default one of their own, once it has the metrics of a process.

    Raises:
        ConfigurationError: it has those of another `Metrics`.
    """
    registry = CollectorRegistry() if registry is None else registry
    try:
        registry.register(_Exposition(metrics))
    except ValueError as error:
        raise ConfigurationError(f"this registry has streamtask's metrics already: {error}") from error
    return registry


def rendered(registry: CollectorRegistry) -> bytes:
    """Everything in a registry, in Prometheus' text format (`CONTENT_TYPE`)."""
    return generate_latest(registry)


class _Exposition(Collector):
    """What a registry asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Family]:
        """The families without samples, for the registry's check of names."""
        return (_family(row) for row in TABLE)

    def collect(self) -> Iterator[Family]:
        """The families with their samples; the registry calls this at a scrape."""
        samples = self._metrics.snapshot()
        for row in TABLE:
            family = _family(row)
            if isinstance(family, HistogramMetricFamily):
                self._fill(family)
            else:
                for labels, value in samples[row.name].items():
                    family.add_metric(labels, value)
            yield family

    def _fill(self, family: HistogramMetricFamily) -> None:
        bounds = [*map(str, BUCKETS), "+Inf"]
        for key, counts, total in self._metrics.durations():
            if any(counts):
                family.add_metric(key, list(zip(bounds, accumulate(counts), strict=True)), total)


def _family(row: Metric) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if row.kind == "counter":
        return CounterMetricFamily(row.name, row.meaning, labels=row.labels)
    if row.kind == "gauge":
        return GaugeMetricFamily(row.name, row.meaning, labels=row.labels)
    return HistogramMetricFamily(row.name, row.meaning, labels=row.labels)
