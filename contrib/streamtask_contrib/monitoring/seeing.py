"""Looks at the broker: groups, what they hold, who works, what services report, how bots are. Judges nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from streamtask import App, Inspector, TransportError
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import BotState, ServiceHealthReport
from streamtask_contrib.monitoring.board import Board
from streamtask_contrib.monitoring.samples import (
    BotSample,
    EntrySample,
    EntryState,
    GroupSample,
    InstanceSample,
    Sample,
)

log = logging.getLogger(__name__)

#: The group that keeps what services report, and its stream.
GROUP, STREAM = "monitoring", "monitoring"
#: Entries of a group that are looked at, the oldest; and questions that are asked at the same time.
_ENTRIES, _AT_ONCE = 100, 16
#: Seconds that reports may wait to be read before nothing is said of who is silent.
_READ_WITHIN = 10.0
#: Bots that should hear others.
_IN_CALL: frozenset[BotState] = frozenset({"in_call", "capturing"})


async def look(app: App, at: float) -> Sample:
    """What is there now. Raises TransportError where the broker cannot be reached."""
    inspector = Inspector(app)
    living: dict[str, int] = {}
    for worker in await inspector.workers():
        for group in worker.groups:
            living[group] = living.get(group, 0) + 1
    asking = asyncio.Semaphore(_AT_ONCE)

    async def seen(found: GroupSample) -> GroupSample:
        if not found.pending:
            return found
        async with asking:
            return await _with_entries(inspector, found)

    groups = [
        GroupSample(
            stream=found.stream,
            group=found.group,
            lag=found.lag,
            lag_seconds=found.lag_seconds,
            pending=found.pending,
            dead=found.dead,
            workers=living.get(found.group, 0),
        )
        for found in await inspector.groups()
    ]
    return Sample(
        at=at,
        groups=await asyncio.gather(*map(seen, groups)),
        services=_by_service(await Board(app.records).services()),
        bots=await _bots(app),
        reports_wait=not any(_is_read(group) for group in groups),
    )


async def _with_entries(inspector: Inspector, found: GroupSample) -> GroupSample:
    try:
        page = await inspector.inspection.pending(found.stream, found.group, limit=_ENTRIES)
    except TransportError as error:
        # Dropped since it was listed; where it is the connection, the next question says so.
        log.info("monitoring.group_unseen", extra={"group": found.subject, "error": str(error)})
        page = []
    entries = [
        EntrySample(
            entry.entry_id,
            _state(entry.consumer, entry.due_in_ms, is_alive=entry.alive),
            mark=f"{entry.consumer} {entry.deliveries} {entry.progress}",
            has_progress=entry.progress is not None,
        )
        for entry in page
    ]
    return GroupSample(
        stream=found.stream,
        group=found.group,
        lag=found.lag,
        lag_seconds=found.lag_seconds,
        pending=found.pending,
        entries=entries,
        dead=found.dead,
        workers=found.workers,
    )


def _state(consumer: str, due_in_ms: int | None, *, is_alive: bool) -> EntryState:
    if due_in_ms is not None:
        return "later" if due_in_ms else "due"
    if consumer.startswith("~"):
        # It waits for a worker that knows its type, or behind others of its key.
        return "later"
    return "running" if is_alive else "lost"


def _is_read(group: GroupSample) -> bool:
    """Whether this is the group that reads reports, and it does."""
    if (group.stream, group.group) != (STREAM, GROUP):
        return False
    return not group.unread or (group.lag_seconds or 0.0) < _READ_WITHIN


def _by_service(reports: Sequence[ServiceHealthReport]) -> Mapping[str, Sequence[InstanceSample]]:
    found: dict[str, list[InstanceSample]] = {}
    for report in reports:
        found.setdefault(report.service, []).append(
            InstanceSample(
                instance=report.instance,
                reported=report.reported_at.isoformat(),
                has_ended=report.status == "down",
                figures=report.figures,
            )
        )
    return found


# ── bots ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _bots(app: App) -> list[BotSample]:
    now = datetime.now(UTC)
    living = [bot for bot in await Bots(app).living() if bot.state in _IN_CALL and bot.participants]
    return [_bot(bot, await app.records.read(f"bot-lease-{bot.bot_id}"), now) for bot in living]


def _bot(bot: Bot, facts: Mapping[str, bytes], now: datetime) -> BotSample:
    """A bot by what it has written beside its lease. What came before its last change of state counts from there."""
    return BotSample(
        bot_id=bot.bot_id,
        attempt=bot.attempt,
        beat_age=_age(facts.get("at"), bot.changed_at, now),
        audio_age=_age(facts.get("last_audio"), bot.changed_at, now),
    )


def _age(written: bytes | None, changed_at: datetime | None, now: datetime) -> float | None:
    moments = [changed_at] if changed_at is not None else []
    if written:
        try:
            moments.append(datetime.fromisoformat(written.decode()))
        except ValueError as error:
            log.warning("monitoring.unreadable", extra={"what": "a bot's beat", "error": str(error)})
    ages = [(now - moment).total_seconds() for moment in moments if moment.tzinfo is not None]
    return max(0.0, min(ages)) if ages else None
