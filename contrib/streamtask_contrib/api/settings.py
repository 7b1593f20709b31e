"""What can be set of the API, by environment variables `STREAMTASK_API_…`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ApiSettings(BaseSettings):
    """Durations are seconds, sizes are bytes. What counts connections counts those of one API process."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_API_", frozen=True)

    # ── who may come in ───────────────────────────────────────────────────────────────────────────────────────

    #: User → key, as JSON: `{"anna": "…"}`. Without any: everybody on this machine, and nobody else.
    keys: dict[str, SecretStr] = Field(default_factory=dict)
    #: Open sockets and event streams of one user.
    max_connections: int = Field(default=100, ge=1)
    #: Uploads of one user at the same time.
    max_uploads: int = Field(default=8, ge=1)

    # ── uploads ───────────────────────────────────────────────────────────────────────────────────────────────

    #: The largest file.
    max_upload_bytes: int = Field(default=1 << 30, ge=1)
    #: How long the same file, sent again, gets the same answer without being worked on again.
    upload_ttl: float = Field(default=86_400.0, gt=0)
    #: The longest chunk that a file is cut into.
    upload_chunk: float = Field(default=60.0, ge=2.0, le=600.0)

    # ── live audio ────────────────────────────────────────────────────────────────────────────────────────────

    #: The longest chunk of live audio: who speaks on is cut after so long, and the parts overlap.
    utterance: float = Field(default=8.0, ge=2.0, le=60.0)
    #: Quiet for so long ends an utterance.
    silence: float = Field(default=0.5, ge=0.1, le=5.0)
    #: What two chunks share where speech had to be cut, live or in a file.
    overlap: float = Field(default=1.0, ge=0.0, le=1.5)
    #: How often the words of an open utterance are asked for; 0: never.
    partial: float = Field(default=1.0, ge=0.0)
    #: The longest frame that a client may send.
    max_frame_bytes: int = Field(default=1 << 20, ge=1024)
    #: The longest session.
    max_session: float = Field(default=4 * 3600.0, gt=0)
    #: A client that sends nothing at all for so long is closed; what it said is kept.
    idle_timeout: float = Field(default=120.0, gt=0)
    #: Chunks that wait for a worker before clients are asked to pause.
    max_lag: int = Field(default=200, ge=1)
    #: How often the lag is looked at.
    lag_interval: float = Field(default=1.0, gt=0)
    #: How long a socket waits for the last results after `end`, and `/v1/audio/transcriptions` for all of them.
    end_timeout: float = Field(default=120.0, ge=0)

    # ── bots and configuration ────────────────────────────────────────────────────────────────────────────────

    #: Bots of one user that have not ended.
    max_bots: int = Field(default=10, ge=1)
    #: Users who may see what services are configured with, and take it back, as JSON. Without keys: who is let in.
    operators: tuple[str, ...] = ()

    # ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────

    #: Audio, after it has come: as long as a worker may be away.
    audio_ttl: float = Field(default=86_400.0, gt=0)
    #: Sessions and their transcripts, after the last that is heard of them.
    session_ttl: float = Field(default=7 * 86_400.0, gt=0)

    # ── results ───────────────────────────────────────────────────────────────────────────────────────────────

    #: How far back results can be replayed.
    replay: float = Field(default=3600.0, ge=0)
    #: The memory that replayed results may take.
    replay_bytes: int = Field(default=64 << 20, ge=0)
    #: Partial results that wait for a slow client; older ones are dropped.
    max_waiting_partials: int = Field(default=8, ge=1)
    #: Final results, or statuses, that wait for a slow client; with more, it is closed and told where to go on.
    max_waiting_finals: int = Field(default=1000, ge=1)
    #: An event stream says that it is alive so often.
    keepalive: float = Field(default=15.0, gt=0)
    #: Write results into the sessions' records in this process, too; otherwise a worker of group `transcripts` has to.
    keep_transcripts: bool = True
