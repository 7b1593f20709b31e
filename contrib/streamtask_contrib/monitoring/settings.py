"""What a monitoring worker can be told: the fields of `MonitoringSettings`, by environment or in code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamtask_contrib.monitoring.limits import Limits

_DEFAULT = Limits()


class MonitoringSettings(BaseSettings):
    """Each field is also a variable, such as STREAMTASK_MONITORING_SILENT. Durations are seconds."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_MONITORING_", env_ignore_empty=True, frozen=True)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────

    #: Between two looks.
    interval: float = Field(default=_DEFAULT.interval, ge=0.1, le=60.0)
    #: A watcher that says nothing for so long is dead, and another takes over.
    lease_ttl: float = Field(default=6.0, ge=1.0, le=60.0)

    # ── judging: below these floors nothing is unusual ────────────────────────────────────────────────────────

    #: Work waits in a group, and nothing is done for so long.
    stalled: float = Field(default=_DEFAULT.stalled, gt=0)
    #: The same of handlers that have said how far they are, and of one event that runs alone while nothing waits.
    stalled_in_progress: float = Field(default=_DEFAULT.stalled_in_progress, gt=0)
    stalled_alone: float = Field(default=_DEFAULT.stalled_alone, gt=0)
    #: Groups that may be quiet for longer, as JSON: {"videos": 3600}.
    patience: dict[str, float] = Field(default_factory=dict)
    #: A backlog of fewer events, or whose oldest event is younger, is none; a growing one is told after `lag_grows`.
    lag_events: float = Field(default=_DEFAULT.lag_events, ge=1)
    lag_age: float = Field(default=_DEFAULT.lag_age, ge=0)
    lag_grows: float = Field(default=_DEFAULT.lag_grows, gt=0)
    #: An event that is in work for less is not late.
    late: float = Field(default=_DEFAULT.late, gt=0)
    #: A 95th percentile of handlers below this is fast; and how many times the usual is slow.
    latency: float = Field(default=_DEFAULT.latency, gt=0)
    latency_ratio: float = Field(default=_DEFAULT.latency_ratio, gt=1)
    #: Share of runs that may fail beyond what is usual, 0 to 1.
    error_share: float = Field(default=_DEFAULT.error_share, gt=0, le=1)
    #: Dead letters within five minutes beyond what is usual.
    dead_letters: float = Field(default=_DEFAULT.dead_letters, ge=1)
    #: A service that says nothing for so long, and has not said that it ends.
    silent: float = Field(default=_DEFAULT.silent, gt=0)
    #: A bot that has not said for so long that it lives, or has heard nobody though others are in the call.
    bot_beat: float = Field(default=_DEFAULT.bot_beat, gt=0)
    bot_audio: float = Field(default=_DEFAULT.bot_audio, gt=0)
    #: Deviations from the median that are unusual; fewer find more, and find more that is nothing.
    deviations: float = Field(default=_DEFAULT.deviations, ge=2)
    #: So many anomalies of one kind in one look are told as one.
    many: int = Field(default=_DEFAULT.many, ge=2)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────

    #: Write each anomaly into the log.
    alert_log: bool = True
    #: Where to post each anomaly; the address may be a secret itself. Empty: nowhere.
    webhook_url: SecretStr | None = None
    #: Where the secret is that signs it, "env:NAME" or "file:/path": "whsec_" and base64.
    webhook_secret: str = Field(default="", pattern=r"^$|^(env|file):.+$")
    #: Seconds that a request may take.
    webhook_timeout: float = Field(default=10.0, gt=0, le=120.0)
    #: Where the addresses for apprise are, "env:NAME" or "file:/path", one a line. Needs the extra `alerts`.
    apprise: str = Field(default="", pattern=r"^$|^(env|file):.+$")
    #: Only this severity and worse is told to webhook and apprise; the log has all.
    alert_from: Literal["warning", "critical"] = "warning"
    #: Seconds for which an alert that cannot be delivered is tried again.
    alert_for: float = Field(default=86_400.0, gt=0)

    def limits(self) -> Limits:
        """By what is judged."""
        return Limits(**{name: getattr(self, name) for name in _JUDGED})


_JUDGED = tuple(name for name in Limits.__dataclass_fields__ if name in MonitoringSettings.model_fields)
