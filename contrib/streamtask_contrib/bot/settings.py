"""What can be set of bots and their orchestrators, by environment variables `STREAMTASK_BOT_…`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class BotSettings(BaseSettings):
    """Durations are seconds. What counts bots counts those of one orchestrator."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_BOT_", env_ignore_empty=True, frozen=True)

    # ── how many ──────────────────────────────────────────────────────────────────────────────────────────────

    #: Bots at the same time.
    max_bots: int = Field(default=8, ge=1)
    #: No bot is started while this machine's load of the last minute is above so many for each processor; 0: whatever
    #: it is.
    max_load: float = Field(default=0.0, ge=0.0)
    #: Processes that a bot may have, one after the other.
    max_attempts: int = Field(default=3, ge=1)

    # ── who looks after them ──────────────────────────────────────────────────────────────────────────────────

    #: An orchestrator that says nothing for so long is dead, and its bots are others'.
    orchestrator_ttl: float = Field(default=6.0, ge=1.0)
    #: A bot that cannot say for so long that it lives ends itself; only then may there be another in its place.
    lease_ttl: float = Field(default=30.0, ge=3.0)

    # ── how long what may take ────────────────────────────────────────────────────────────────────────────────

    #: From the process' start to its first word.
    start_timeout: float = Field(default=30.0, gt=0)
    #: From its first word to the waiting room or the call.
    join_timeout: float = Field(default=60.0, gt=0)
    #: A bot that was asked to leave gets SIGTERM after so long, and SIGKILL, with its group, after so long.
    terminate_after: float = Field(default=10.0, ge=0)
    kill_after: float = Field(default=20.0, gt=0)

    # ── what it hears ─────────────────────────────────────────────────────────────────────────────────────────

    #: The longest chunk; who speaks on is cut after so long, and the parts overlap by the request's
    #: `audio_config.overlap`.
    utterance: float = Field(default=8.0, ge=2.0, le=60.0)
    #: Quiet for so long ends an utterance.
    silence: float = Field(default=0.6, ge=0.1, le=5.0)
    #: Chunks' audio is kept for so long, and what is written down of a session.
    audio_ttl: float = Field(default=86_400.0, gt=0)
    session_ttl: float = Field(default=7 * 86_400.0, gt=0)

    # ── what it may reach ─────────────────────────────────────────────────────────────────────────────────────

    #: Hosts of meetings, "meet.example.org" or "*.example.org", as JSON; none: any.
    meeting_hosts: tuple[str, ...] = ()
    #: Where the recordings of the driver "file" are; without it there is no such driver.
    recordings: Path | None = None
    #: Tokens: `env:NAME` is read where NAME begins so; `file:NAME` below this folder; `call:…` is given to this
    #: function, "package.module:function".
    token_env: str = "STREAMTASK_BOT_TOKEN_"  # noqa: S105 - what names begin with
    token_folder: Path | None = None
    token_call: str = ""
    #: The browser; empty: the first that is found on PATH.
    chromium: str = ""

    # ── where its log is ──────────────────────────────────────────────────────────────────────────────────────

    logs: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / "streamtask-bots")
    #: Seconds that a bot is remembered after its last change.
    kept: float = Field(default=7 * 86_400.0, gt=0)

    @model_validator(mode="after")
    def _killed_last(self) -> Self:
        if self.kill_after <= self.terminate_after:
            raise ValueError("kill_after has to be longer than terminate_after")
        return self
