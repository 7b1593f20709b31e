"""What can be set of the configuration worker, by environment variables `STREAMTASK_CONFIG_…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamtask_contrib.events import ID

_Service = Annotated[str, StringConstraints(pattern=ID)]


class ConfigSettings(BaseSettings):
    """Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_CONFIG_", env_ignore_empty=True, frozen=True)

    # ── where configurations are ──────────────────────────────────────────────────────────────────────────────

    #: A folder with a file for each service: `whisper.yaml`, `.yml`, `.toml` or `.json`.
    folder: Path | None = None
    #: Service → key of a Redis hash, as JSON, and the server that has them: `redis://`, `rediss://` or `unix://`.
    hashes: dict[_Service, str] = Field(default_factory=dict)
    redis_url: SecretStr = SecretStr("")
    #: Service → address of its document, as JSON, and the token that is sent with the question.
    pages: dict[_Service, str] = Field(default_factory=dict)
    http_token: SecretStr = SecretStr("")
    #: Whether a rollback may PUT the document there.
    http_writable: bool = False
    #: A page has to answer within so long.
    http_timeout: float = Field(default=5.0, gt=0)

    # ── how often they are looked at ──────────────────────────────────────────────────────────────────────────

    #: Files and hashes.
    every: float = Field(default=1.0, ge=0.05)
    #: Pages.
    http_every: float = Field(default=10.0, ge=0.05)
    #: A worker that does not look at a source for so long has lost it to another.
    lease_ttl: float = Field(default=5.0, ge=3.0)

    # ── versions and drifts ───────────────────────────────────────────────────────────────────────────────────

    #: Versions of a service that are kept.
    keep: int = Field(default=20, ge=2, le=200)
    #: Dotted names that are secrets beside those that are known, as JSON: `["billing.*", "*.webhook"]`.
    secret_names: tuple[str, ...] = ()
    #: A service may take so long to follow a new version before that is a drift.
    grace: float = Field(default=5.0, ge=0.0)
