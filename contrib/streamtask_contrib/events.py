"""The catalog: the events of the five streams, each once, with the unit or form of every field.

Times of day are `datetime` with a time zone, durations and positions are seconds (`float`). A position (`start`, `end`)
counts from the beginning of the session, whatever the chunk. Languages are ISO 639-1 ("en"). Fields are added with a
default, so that older producers and consumers go on; what has to change otherwise becomes a new version of its event.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamtask import Event

#: What a session or a bot may be called.
ID = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"

#: Where audio comes from.
SourceType = Literal["websocket", "upload", "bot"]


def _now() -> datetime:
    return datetime.now(UTC)


class _Part(BaseModel):
    """What stands inside of an event."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())


# ── stream:audio-ingest ───────────────────────────────────────────────────────────────────────────────────────────


class AudioConfig(_Part):
    """How a chunk was recorded and cut."""

    #: Samples a second. Only raw PCM needs it: a container says it itself.
    sample_rate: int = Field(default=16_000, gt=0, le=768_000)
    #: Channels, interleaved; as above.
    channels: int = Field(default=1, ge=1, le=8)
    #: "container": WAV, MP3, Ogg, WebM, ... "pcm_s16le": raw samples, 16 bits, little endian.
    encoding: Literal["container", "pcm_s16le"] = "container"
    #: Seconds that a chunk shares with each neighbour; 0 where it was cut in a silence.
    overlap: float = Field(default=0.0, ge=0.0, le=30.0)


class ProcessingFlags(_Part):
    """What is wanted of a chunk."""

    transcribe: bool = True
    #: Tell speakers apart.
    diarize: bool = False
    #: Translate the words into `target_languages`.
    translate: bool = False
    target_languages: list[str] = Field(default_factory=list, max_length=20)


class AudioChunkReceived(Event, stream="audio-ingest", key="chunk_id"):
    """A piece of a session's audio has been stored and waits to be transcribed."""

    session_id: str = Field(min_length=1, max_length=200)
    #: Unique over all sessions; the same audio sent again has the same one.
    chunk_id: str = Field(min_length=1, max_length=200)
    user_id: str | None = None
    source_type: SourceType = "upload"
    #: Where the audio is: `redis:///name`, `file:///path`, `s3://bucket/name`. Empty where it is inline.
    storage_uri: str = ""
    #: The audio itself, for development: base64 in JSON. Refused unless the app allows it.
    inline_audio: bytes | None = None
    audio_config: AudioConfig = Field(default_factory=AudioConfig)
    processing_flags: ProcessingFlags = Field(default_factory=ProcessingFlags)
    #: Place of the chunk in its session, from 0, without gaps.
    sequence: int = Field(default=0, ge=0)
    #: Position of the chunk's first sample in the session, in seconds.
    start: float = Field(default=0.0, ge=0.0)
    #: Length in seconds, where the producer knows it.
    duration: float | None = Field(default=None, ge=0.0)
    #: No chunk of this session comes after this one.
    is_last: bool = False
    #: The beginning of a chunk that is still being spoken: its result is shown, and replaced by the whole chunk's.
    is_partial: bool = False
    #: What is spoken; None: the model finds out.
    language: str | None = None
    #: Who speaks, where each speaker has a source of its own (a user's microphone, a participant of a meeting).
    speaker: str | None = None
    #: When the chunk was complete at its producer.
    received_at: datetime = Field(default_factory=_now)


# ── stream:audio-results ──────────────────────────────────────────────────────────────────────────────────────────


class Word(_Part):
    """One word."""

    #: Position in the session, in seconds.
    start: float
    end: float
    #: As it is written, with the space before it if there is one.
    text: str
    #: Of the model, 0 to 1.
    probability: float = 1.0
    #: Label of the speaker, a key of the speaker map.
    speaker: str | None = None


class Segment(_Part):
    """Words that belong together: a turn, or a part of one."""

    #: Position in the session, in seconds.
    start: float
    end: float
    text: str
    words: list[Word] = Field(default_factory=list)
    speaker: str | None = None
    #: Mean log probability of the tokens; None where the model does not say.
    average_log_probability: float | None = None


class SpeakerMap(_Part):
    """Who speaks, and how we know."""

    #: "source": each speaker has a source. "channel": each has a channel. "pyannote": a model. "none": unknown.
    method: Literal["none", "source", "channel", "pyannote"] = "none"
    #: "exact": it was recorded so. "estimated": a model's judgement. "none": nobody knows.
    confidence: Literal["exact", "estimated", "none"] = "none"
    #: Label → name to show. A label means the same person in every chunk of a session.
    speakers: dict[str, str] = Field(default_factory=dict)


class Latency(_Part):
    """Where the time went, in seconds."""

    #: From `received_at` to the start of the work.
    queue: float = 0.0
    decode: float = 0.0
    #: Finding speech.
    vad: float = 0.0
    #: Waiting for a batch and running it.
    inference: float = 0.0
    #: From the start of the work to its end.
    total: float = 0.0
    #: Seconds of audio.
    audio: float = 0.0
    #: `total` divided by `audio`; 0 where there was no audio.
    real_time_factor: float = 0.0
    #: Turns in the largest batch that the chunk was part of.
    batch_size: int = 0


class TranscriptionCompleted(Event, stream="audio-results", key="chunk_id"):
    """A chunk has been transcribed. Without segments where nobody speaks in it."""

    session_id: str
    chunk_id: str
    user_id: str | None = None
    source_type: SourceType = "upload"
    sequence: int = 0
    #: Position and end of the chunk in the session, in seconds.
    start: float = 0.0
    end: float = 0.0
    #: Seconds shared with each neighbour. Words of the neighbours' part are not in `segments`.
    overlap: float = 0.0
    is_last: bool = False
    is_partial: bool = False
    language: str = ""
    #: Of the model, 0 to 1; 1 where the language was given.
    language_probability: float = 0.0
    #: All segments' text, joined.
    text: str = ""
    segments: list[Segment] = Field(default_factory=list)
    #: Where the segments are, as a JSON array, when they are too many for an event; empty otherwise.
    segments_uri: str = ""
    #: Words of the neighbours' parts of the overlap, as they were heard here: they show where two chunks fit together.
    edges: list[Word] = Field(default_factory=list)
    speaker_map: SpeakerMap = Field(default_factory=SpeakerMap)
    latency: Latency = Field(default_factory=Latency)
    #: Name of the model.
    model: str = ""
    #: What a person should know: "no speech was found", "cut at the limit of 4 h".
    note: str = ""


class TextSegment(_Part):
    """Text with its time, to be translated."""

    start: float
    end: float
    text: str
    speaker: str | None = None


class TranslationRequested(Event, stream="audio-results", key=("chunk_id", "target_language")):
    """The words of a chunk are wanted in another language."""

    session_id: str
    chunk_id: str
    sequence: int = 0
    is_partial: bool = False
    source_language: str
    target_language: str
    segments: list[TextSegment] = Field(default_factory=list)
    #: As in `TranscriptionCompleted`.
    segments_uri: str = ""
    requested_at: datetime = Field(default_factory=_now)


class TranslatedSegment(_Part):
    """A segment and its translation; times and speaker are those of what was said."""

    start: float
    end: float
    source_text: str
    text: str
    speaker: str | None = None


class TranslationCompleted(Event, stream="audio-results", key=("chunk_id", "target_language")):
    """The words of a chunk in another language."""

    session_id: str
    chunk_id: str
    sequence: int = 0
    is_partial: bool = False
    source_language: str
    target_language: str
    text: str = ""
    segments: list[TranslatedSegment] = Field(default_factory=list)
    segments_uri: str = ""
    latency: Latency = Field(default_factory=Latency)
    model: str = ""


class ProcessingFailed(Event, stream="audio-results", key=("chunk_id", "stage", "target_language")):
    """A chunk will not be processed; its event is a dead letter of the group that gave up."""

    session_id: str
    chunk_id: str
    sequence: int = 0
    is_last: bool = False
    is_partial: bool = False
    stage: Literal["transcription", "translation"]
    #: Only where a translation failed; else empty.
    target_language: str = ""
    #: For programs: "rejected", "max_attempts", "worker_lost", ...
    reason: str
    #: For people: what happened and what to do.
    message: str
    attempts: int = 1


# ── stream:config-sync ────────────────────────────────────────────────────────────────────────────────────────────


class ConfigSnapshot(Event, stream="config-sync", key=("service", "version")):
    """A configuration as it is now."""

    service: str
    #: Rises with every change.
    version: int = Field(ge=1)
    #: SHA-256 of the canonical JSON, in hex; with a keyed digest in the place of each secret, which could be guessed
    #: otherwise.
    checksum: str
    #: Secrets are replaced by "***".
    values: dict[str, Any] = Field(default_factory=dict)
    #: Where it was read.
    source: str = ""
    taken_at: datetime = Field(default_factory=_now)


class ConfigReported(Event, stream="config-sync"):
    """What one process of a service runs with, told by itself."""

    service: str
    #: Which process of the service.
    instance: str
    #: The snapshot's version that it took over last; 0: none so far.
    version: int = Field(ge=0)
    #: Of what it really runs with, as in `ConfigSnapshot`.
    checksum: str
    #: Secrets are replaced by "***".
    values: dict[str, Any] = Field(default_factory=dict)
    #: Dotted name of each secret → a keyed digest of its value: it shows that one differs, and not what it is.
    secrets: dict[str, str] = Field(default_factory=dict)
    reported_at: datetime = Field(default_factory=_now)


class ConfigDriftDetected(
    Event, stream="config-sync", key=("service", "instance", "expected_version", "actual_checksum")
):
    """A service runs with another configuration than the snapshot."""

    service: str
    #: Which process of the service.
    instance: str
    expected_version: int
    expected_checksum: str
    actual_checksum: str
    #: Dotted names of what differs.
    changed_keys: list[str] = Field(default_factory=list)
    #: For people, a line a key; secrets are replaced by "***".
    diff: str = ""
    detected_at: datetime = Field(default_factory=_now)


class ConfigRollbackRequested(Event, stream="config-sync", key="request_id"):
    """An earlier version is to be restored."""

    request_id: str
    service: str
    to_version: int = Field(ge=1)
    requested_by: str = ""
    reason: str = ""


# ── stream:bot-control ────────────────────────────────────────────────────────────────────────────────────────────

#: The life of a bot; the last two are its ends.
BotState = Literal[
    "requested", "starting", "joining", "waiting_room", "in_call", "capturing", "leaving", "stopped", "failed"
]


class AutomaticLeave(_Part):
    """When a bot leaves by itself: after so many seconds. 0: never for this reason."""

    #: In the waiting room.
    waiting_room: float = Field(default=300.0, ge=0.0)
    #: In the call, and nobody else has ever been there.
    nobody_joined: float = Field(default=600.0, ge=0.0)
    #: Everybody else has left.
    everyone_left: float = Field(default=60.0, ge=0.0)
    #: Nobody has said a word.
    silence: float = Field(default=1800.0, ge=0.0)
    #: In the call, whatever happens.
    longest: float = Field(default=14_400.0, ge=0.0)


class BotRequested(Event, stream="bot-control", key="bot_id"):
    """A bot is to join a meeting."""

    bot_id: str = Field(pattern=ID)
    #: Of the bot's audio; no other bot, upload or user may speak into it.
    session_id: str = Field(pattern=ID)
    #: Whose session it is, for the API.
    user_id: str | None = None
    meeting_url: str = Field(min_length=1, max_length=2000)
    #: Which driver: "browser", "file".
    driver: str = "browser"
    #: How the driver finds its way in the page: "jitsi", "generic"; "auto": by the address.
    recipe: str = "auto"
    #: Name that the meeting shows.
    display_name: str = "streamtask bot"
    #: Where the token is, never the token: "env:NAME", "file:name", "call:anything".
    auth_token_ref: str = Field(default="", max_length=500)
    #: Such as "audio", "participants".
    capabilities: list[str] = Field(default_factory=lambda: ["audio"])
    audio_config: AudioConfig = Field(default_factory=AudioConfig)
    processing_flags: ProcessingFlags = Field(default_factory=ProcessingFlags)
    #: What is spoken; None: the model finds out.
    language: str | None = None
    automatic_leave: AutomaticLeave = Field(default_factory=AutomaticLeave)
    #: Facts of the meeting that the caller wants to find again.
    metadata: dict[str, str] = Field(default_factory=dict)
    requested_at: datetime = Field(default_factory=_now)


class BotStopRequested(Event, stream="bot-control", key="bot_id"):
    """A bot is to leave. Holds also for a bot that has not started, or is not even requested yet."""

    bot_id: str = Field(pattern=ID)
    reason: str = "requested"
    requested_at: datetime = Field(default_factory=_now)


class BotRecoveryRequested(Event, stream="bot-control", key="request_id"):
    """A bot does not do what it should: its process is to be ended, and started again if it may be."""

    request_id: str
    bot_id: str = Field(pattern=ID)
    #: Finer, for programs: "no_beat", "no_audio".
    reason: str
    #: For people: what was seen.
    evidence: str = ""
    requested_at: datetime = Field(default_factory=_now)


class BotStatusUpdate(Event, stream="bot-control", key=("bot_id", "sequence")):
    """A bot has changed its state, or who is in its meeting."""

    bot_id: str
    session_id: str = ""
    #: Rises by one with every change of the bot, from 0.
    sequence: int = Field(ge=0)
    state: BotState
    #: Why, for programs; an open set: "requested", "everyone_left", "join_timeout", "process_lost", ...
    reason: str = ""
    #: Finer than `reason`; an open set.
    sub_code: str = ""
    #: From 1; above it, the bot was started again.
    attempt: int = 1
    #: Names of those in the meeting, without the bot.
    participants: list[str] = Field(default_factory=list)
    changed_at: datetime = Field(default_factory=_now)


class BotLogged(Event, stream="bot-logs", key=("bot_id", "attempt", "position")):
    """What a bot's process has written: whole lines, as they stand in its log."""

    bot_id: str
    attempt: int
    #: Bytes of the attempt's log before these lines.
    position: int
    lines: list[str]
    logged_at: datetime = Field(default_factory=_now)


# ── stream:monitoring ─────────────────────────────────────────────────────────────────────────────────────────────


class ServiceHealthReport(Event, stream="monitoring"):
    """How a service is."""

    service: str
    instance: str
    status: Literal["ok", "degraded", "down"]
    #: For people, a line a trouble.
    details: list[str] = Field(default_factory=list)
    #: Figures by name, in the unit that the name ends with ("lag_seconds").
    figures: dict[str, float] = Field(default_factory=dict)
    reported_at: datetime = Field(default_factory=_now)


class AnomalyDetected(Event, stream="monitoring", key="anomaly_id"):
    """A figure is not what it usually is; or is again (`state` "recovered")."""

    #: The same for an anomaly and its recovery, with the state appended.
    anomaly_id: str
    state: Literal["detected", "recovered"] = "detected"
    #: Such as "lag", "error_rate", "latency".
    kind: str
    #: What it is about, such as "audio-ingest/audio-pipeline".
    subject: str
    severity: Literal["warning", "critical"] = "warning"
    #: The figure, what is usual, and how far from it that is.
    observed: float
    expected: float
    score: float
    #: For people: the figures behind the judgement.
    evidence: str = ""
    detected_at: datetime = Field(default_factory=_now)


class UsageMetrics(Event, stream="monitoring"):
    """What was done in a span of time."""

    service: str
    instance: str = ""
    since: datetime
    until: datetime
    #: Amounts by name, in the unit that the name ends with ("audio_seconds", "events_total").
    amounts: dict[str, float] = Field(default_factory=dict)
