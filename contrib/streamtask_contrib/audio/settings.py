"""Settings of the audio worker, each with its unit; from the environment as `STREAMTASK_AUDIO_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamtask_contrib.models import SPEECH

#: Seconds of silence that end a turn, for a model with a short window and for one with Whisper's own.
SHORT_SILENCE, LONG_SILENCE = 0.4, 2.0


class AudioSettings(BaseSettings):
    """How audio becomes words."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_AUDIO_", extra="ignore", frozen=True)

    # ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────
    #: A folder, or a name such as "large-v3", "small.en", "owner/name" of the hub. By default the model that ships.
    model: str = str(SPEECH)
    #: "auto": a GPU when there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Which GPU, from 0.
    device_index: int = Field(default=0, ge=0)
    #: "auto": float16 on a GPU, int8 on a processor, or what comes nearest. Else a type of CTranslate2, or "default":
    #: as the model was saved.
    compute_type: str = "auto"
    #: Processor threads of one inference; 0: all that this process may use, at most 4. With N worker processes give
    #: each processors / N.
    threads: int = Field(default=0, ge=0)
    #: Folder for models that are fetched from the hub; None: the hub's own.
    download_folder: Path | None = None
    #: Never ask the hub: a model by name has to be in the folder already.
    is_offline: bool = False
    #: Seconds without work after which the model is unloaded; it is loaded again when it is needed. 0: never.
    idle_unload: float = Field(default=0.0, ge=0.0)

    # ── transcribing ──────────────────────────────────────────────────────────────────────────────────────────────
    #: Alternatives that the search keeps at each step; 1 is fastest.
    beam_size: int = Field(default=5, ge=1, le=20)
    #: Tried in turn on words that the model itself holds for bad. Above 0 they are drawn by chance.
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    #: Words to expect, such as names and products; given to the model with every turn.
    hotwords: str = ""
    #: Turns in one inference at most.
    batch_size: int = Field(default=8, ge=1, le=256)
    #: Seconds that a turn waits for others to share its inference.
    batch_wait: float = Field(default=0.02, ge=0.0, le=5.0)

    # ── finding speech ────────────────────────────────────────────────────────────────────────────────────────────
    #: Probability from which a moment is speech, 0 to 1.
    speech_threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    #: Seconds of silence that end a turn. None: 2 where the model hears 30 s at once, 0.4 where it hears less. A turn
    #: is an inference, which costs the same however much of what the model could hear is filled.
    min_silence: float | None = Field(default=None, ge=0.1, le=10.0)
    #: Seconds kept before and after each turn, at most half of `min_silence`. Speech is noticed 0.1 s after it began.
    padding: float = Field(default=0.2, ge=0.0, le=5.0)

    # ── chunks ────────────────────────────────────────────────────────────────────────────────────────────────────
    #: Chunks at once in one process.
    concurrency: int = Field(default=16, ge=1)
    #: Threads that decode and find speech.
    decoders: int = Field(default=2, ge=1, le=64)
    #: Seconds after which one attempt is given up.
    time_limit: float = Field(default=86_400.0, gt=0.0)
    #: Seconds of audio; what is behind them is not transcribed, and the result says so.
    max_seconds: float = Field(default=4 * 3600.0, gt=0.0)
    #: Bytes of decoded sound, before it is resampled; a chunk with more is rejected.
    max_decoded_bytes: int = Field(default=32 << 30, gt=0)
    #: Turns after which a long chunk's work so far is kept, so that another worker could go on there.
    checkpoint_every: int = Field(default=16, ge=1)
    #: Seconds after which the beginning of a chunk is not worth transcribing any more: a longer one is there.
    partial_max_age: float = Field(default=3.0, gt=0.0)
    #: Bytes of segments that travel in the event; more are stored as a blob.
    max_event_bytes: int = Field(default=500_000, ge=1_000)

    # ── telling speakers apart ────────────────────────────────────────────────────────────────────────────────────
    #: Folder or hub name of a pyannote.audio pipeline, such as "pyannote/speaker-diarization-community-1". Empty: none.
    diarization_model: str = ""
    #: The hub's token, where the pipeline asks for one.
    diarization_token: SecretStr = SecretStr("")
    #: Cosine similarity from which two voices of a session are one speaker, 0 to 1.
    same_speaker: float = Field(default=0.6, gt=0.0, lt=1.0)
    #: Seconds for which the voices of a session are remembered.
    session_ttl: float = Field(default=86_400.0, gt=0.0)

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        silence = self.min_silence or SHORT_SILENCE
        if 2 * self.padding > silence:
            raise ValueError(f"padding ({self.padding:g} s) is at most half of min_silence ({silence:g} s)")
        if not self.temperatures:
            raise ValueError("temperatures has at least one number")
        return self
