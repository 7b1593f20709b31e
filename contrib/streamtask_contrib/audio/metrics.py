"""What the audio worker measures, on the registry of its app: `streamtask worker --metrics-port` serves it all."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamtask_contrib.events import Latency

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_FACTORS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class AudioMetrics:
    """The figures of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "streamtask_audio_seconds",
            "Seconds that a chunk took, by stage: queue, decode, vad, inference, total.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.real_time_factor = Histogram(
            "streamtask_audio_real_time_factor",
            "Seconds of work for each second of a chunk's audio.",
            buckets=_FACTORS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "streamtask_audio_batch_size", "Turns that shared an inference.", buckets=_SIZES, registry=registry
        )
        self.audio = Counter(
            "streamtask_audio_processed_seconds", "Seconds of audio that were transcribed.", registry=registry
        )
        self.dropped = Counter(
            "streamtask_audio_dropped_turns",
            "Turns whose words were dropped, by reason: inaudible, empty, silence, repetition, known phrase.",
            ["reason"],
            registry=registry,
        )
        self.skipped = Counter(
            "streamtask_audio_skipped_partials", "Beginnings of chunks that came too late to matter.", registry=registry
        )
        self.model_loaded = Gauge(
            "streamtask_audio_model_loaded", "1 while the model is in memory, else 0.", registry=registry
        )

    def finished(self, latency: Latency) -> None:
        """A chunk was transcribed."""
        for stage in ("queue", "decode", "vad", "inference", "total"):
            self.seconds.labels(stage).observe(getattr(latency, stage))
        self.audio.inc(latency.audio)
        if latency.audio:
            self.real_time_factor.observe(latency.real_time_factor)
