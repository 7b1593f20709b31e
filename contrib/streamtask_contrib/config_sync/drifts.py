"""Drifts: which instances of a service run with something else than they should, from what they report.

A report is compared with the head. One that was made before its instance can have had the head is no drift. What was
found is remembered for each instance until it reports the head again, or nothing any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict

from streamtask import Records
from streamtask_contrib.config_sync.differences import compared
from streamtask_contrib.config_sync.redaction import redacted
from streamtask_contrib.events import ConfigDriftDetected, ConfigReported

#: Seconds after which an instance that says nothing is gone: three times the longest time between two reports.
GONE: Final = 90.0
#: A report that is older than the last by less than so many seconds has come late; by more: its clock was set back.
_LATE: Final = timedelta(seconds=60)


class Expected(BaseModel):
    """What an instance should run with: the head, as far as it has to be known here."""

    version: int
    checksum: str
    taken_at: datetime
    #: Redacted.
    values: dict[str, object]
    #: Of its secrets; see `ConfigReported`.
    secrets: dict[str, str]
    #: What is secret beside what always is.
    patterns: tuple[str, ...] = ()


class Instance(BaseModel):
    """What is remembered of one process of a service."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: By its clock, and by ours.
    reported_at: datetime
    heard_at: datetime
    #: None: it runs with what it should.
    drift: ConfigDriftDetected | None = None


def judge(report: ConfigReported, expected: Expected, *, grace: float, now: datetime) -> ConfigDriftDetected | None:
    """What an instance runs with against what it should; None where that is the same, or it is only a moment behind.

    `grace`: seconds that an instance may take to follow a new version.
    """
    if report.checksum == expected.checksum:
        return None
    had = expected.taken_at + timedelta(seconds=grace)
    if report.version < expected.version and report.reported_at < had:
        return None
    both = expected.secrets.keys() & report.secrets.keys()
    differing = {name for name in both if expected.secrets[name] != report.secrets[name]}
    # Whoever reports should have hidden them, and may be of another version, or of another make.
    found = compared(expected.values, redacted(report.values, expected.patterns), differing)
    return ConfigDriftDetected(
        service=report.service,
        instance=report.instance,
        expected_version=expected.version,
        expected_checksum=expected.checksum,
        actual_checksum=report.checksum,
        changed_keys=found.changed_keys,
        diff=found.text,
        detected_at=now,
    )


class Drifts:
    """What is remembered of the instances of one service."""

    def __init__(self, records: Records, service: str) -> None:
        self._records = records
        self._key = f"config-drifts-{service}"

    async def open(self) -> list[ConfigDriftDetected]:
        """The drift of each instance that has one, and has not gone."""
        now = datetime.now(UTC)
        found = [Instance.model_validate_json(text) for text in (await self._records.read(self._key)).values()]
        drifts = [each.drift for each in found if each.drift is not None and not _is_gone(each, now)]
        return sorted(drifts, key=lambda drift: drift.instance)

    async def is_news(self, report: ConfigReported, drift: ConfigDriftDetected) -> bool:
        """Whether a drift has to be told: nobody has remembered it so far."""
        known = _read(await self._records.read(self._key), report.instance)
        return known is None or not (_is_late(report, known) or _is_same(drift, known.drift))

    async def remember(self, report: ConfigReported, drift: ConfigDriftDetected | None) -> None:
        """Remember what came of a report, unless there was a later one."""
        field = _field(report.instance)
        while True:
            fields = await self._records.read(self._key)
            known = _read(fields, report.instance)
            if known is not None and _is_late(report, known):
                return
            now = datetime.now(UTC)
            stands = known.drift if known is not None and _is_same(drift, known.drift) else drift
            new = Instance(reported_at=report.reported_at, heard_at=now, drift=stands)
            gone = {name: None for name, text in fields.items() if _is_gone(Instance.model_validate_json(text), now)}
            changes = {**gone, field: new.model_dump_json().encode()}
            if await self._records.swap(self._key, changes, expected={field: fields.get(field)}, ttl=2 * GONE):
                return


def _read(fields: Mapping[str, bytes], instance: str) -> Instance | None:
    text = fields.get(_field(instance))
    return None if text is None else Instance.model_validate_json(text)


def _field(instance: str) -> str:
    # An instance may be called by characters that a field's name has not.
    return hashlib.sha256(instance.encode()).hexdigest()


def _is_gone(instance: Instance, now: datetime) -> bool:
    return now - instance.heard_at > timedelta(seconds=GONE)


def _is_late(report: ConfigReported, known: Instance) -> bool:
    return timedelta(0) < known.reported_at - report.reported_at < _LATE


def _is_same(drift: ConfigDriftDetected | None, other: ConfigDriftDetected | None) -> bool:
    if drift is None or other is None:
        return drift is other
    return (drift.expected_version, drift.actual_checksum) == (other.expected_version, other.actual_checksum)
