"""The anomalies that are open, in the app's records: each is told once, and its recovery once, whoever watches.

What is to be told is written down in one step with the change, and published from there. A watcher that died in between
is made up for by the next one; two that publish at once publish once, for an event is de-duplicated by its anomaly.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from streamtask import Application, Records
from streamtask_contrib.events import AnomalyDetected

log = logging.getLogger(__name__)

#: The record: a field for each kind and subject of which something is open, or not told yet.
KEY = "monitoring-anomalies"
#: Seconds that it stands without being written; whoever watches writes it far more often.
KEPT = 7 * 86_400.0


class Anomaly(BaseModel):
    """What is open of one kind about one subject, as it is written down."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: As it was, or would have been, told.
    event: AnomalyDetected
    #: Told as a part of another of its kind, and not by itself: the subject of that one; empty: by itself.
    part_of: str = ""
    #: What may not have been published yet, in order.
    unpublished: tuple[AnomalyDetected, ...] = ()
    #: It is over; the field is removed when that has been told.
    is_over: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """Kind and subject: at most one of a name is open."""
        return self.event.kind, self.event.subject


class Anomalies:
    """What is written down. Every method raises `TransportError` where the broker cannot be reached.

    What is to be told and could not be (`PublishError`) stands, and `publish` makes up for it.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def known(self) -> list[Anomaly]:
        """All that stand there, also what is over and not told yet; the oldest first."""
        return await read_anomalies(self._app.records)

    async def detected(self, event: AnomalyDetected, *, part_of: str = "") -> bool:
        """Write down that something is wrong, and tell it; False where it is written down already."""
        unpublished = () if part_of else (event,)
        anomaly = Anomaly(event=event, part_of=part_of, unpublished=unpublished)
        if not await self._swap(_field(*anomaly.name), None, anomaly):
            return False
        await self._told(anomaly)
        return True

    async def recovered(self, anomaly: Anomaly, *, observed: float, evidence: str, at: datetime) -> bool:
        """Write down that it is over, and tell it; False where somebody else has changed it meanwhile."""
        event = anomaly.event.model_copy(
            update={
                "anomaly_id": identity(base_of(anomaly.event.anomaly_id), "recovered"),
                "state": "recovered",
                "observed": observed,
                "evidence": evidence,
                "detected_at": at,
            }
        )
        told = () if anomaly.part_of else (event,)
        over = anomaly.model_copy(update={"is_over": True, "unpublished": (*anomaly.unpublished, *told)})
        if not await self._swap(_field(*anomaly.name), anomaly, over):
            return False
        await self._told(over)
        return True

    async def publish(self) -> None:
        """Tell what was written down and has not been told."""
        for anomaly in await self.known():
            if anomaly.unpublished or anomaly.is_over:
                await self._told(anomaly)

    async def renew(self) -> None:
        """Have what is open stay written down, though nothing changes."""
        await self._app.records.write(KEY, {"renewed": datetime.now(UTC).isoformat().encode()}, ttl=KEPT)

    async def _told(self, anomaly: Anomaly) -> None:
        for event in anomaly.unpublished:
            await self._app.publish(event, dedup_key=event.anomaly_id)
        field = _field(*anomaly.name)
        if anomaly.is_over:
            await self._swap(field, anomaly, None)
        elif anomaly.unpublished:
            await self._swap(field, anomaly, anomaly.model_copy(update={"unpublished": ()}))

    async def _swap(self, field: str, old: Anomaly | None, new: Anomaly | None) -> bool:
        return await self._app.records.swap(KEY, {field: _written(new)}, expected={field: _written(old)}, ttl=KEPT)


async def read_anomalies(records: Records) -> list[Anomaly]:
    """What stands in the record, the oldest first."""
    fields = await records.read(KEY)
    found = [readable(Anomaly, value) for name, value in fields.items() if name != "renewed"]
    return sorted((one for one in found if one is not None), key=lambda one: one.event.detected_at)


def identity(base: str, state: Literal["detected", "recovered"]) -> str:
    """The id of what is told: the same for an anomaly and its recovery, but for its end."""
    return f"{base}:{state}"


def base_of(anomaly_id: str) -> str:
    """What an anomaly and its recovery have in common."""
    return anomaly_id.rpartition(":")[0]


def digest(*names: str) -> str:
    """A short name for others that a record could not take as they are: too long, or with braces."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:32]


_Model = TypeVar("_Model", bound=BaseModel)


def readable(model: type[_Model], value: bytes) -> _Model | None:
    """What a field holds; None, and a line in the log, where it is of a newer version, or somebody else's."""
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        log.warning("monitoring.unreadable", extra={"what": model.__name__, "error": str(error)})
        return None


def _field(kind: str, subject: str) -> str:
    return digest(kind, subject)


def _written(anomaly: Anomaly | None) -> bytes | None:
    return None if anomaly is None else anomaly.model_dump_json().encode()
