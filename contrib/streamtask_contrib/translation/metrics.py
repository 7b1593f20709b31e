"""What a translation worker counts, beside streamtask's own metrics, in the registry of its app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from streamtask_contrib.events import Latency

#: Upper bounds in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class TranslationMetrics:
    """The counts of one worker; `close` takes them out of the registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._seconds = Histogram(
            "streamtask_translation_seconds",
            "Seconds that a request waited (queue), was translated in batches (inference), and was in work (total).",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._sentences = Counter("streamtask_translation_sentences", "Sentences translated.", registry=registry)
        self._skipped = Counter(
            "streamtask_translation_skipped", "Requests for partial results that came too late.", registry=registry
        )

    def completed(self, latency: Latency, sentences: int) -> None:
        """A request was translated."""
        for stage in ("queue", "inference", "total"):
            self._seconds.labels(stage).observe(getattr(latency, stage))
        self._sentences.inc(sentences)

    def skipped(self) -> None:
        """A request for a partial result was too old to be of use."""
        self._skipped.inc()

    def close(self) -> None:
        """Forget all."""
        for collector in (self._seconds, self._sentences, self._skipped):
            self._registry.unregister(collector)
