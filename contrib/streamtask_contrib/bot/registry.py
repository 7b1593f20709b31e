"""The bots of an app, in its records: every change is made by one who has read what stood, and told in order.

A status is written down in one step with the change, and published from there: whoever comes after one that died in
between publishes it first. Two that do so at once publish it once, for it is de-duplicated by bot and sequence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from streamtask import Application
from streamtask_contrib.bot.states import Bot, Eviction
from streamtask_contrib.events import BotRecoveryRequested, BotRequested, BotState, BotStatusUpdate

log = logging.getLogger(__name__)

#: Seconds that a bot is remembered after its last change: a week.
KEPT = 7 * 86_400.0
#: Records: field for each bot that is known, and for each that has not ended; the bot itself is the field of another.
_ALL, _LIVING, _BOT = "bots", "bots-living", "bot"
#: States of a bot that is, or is to be, in a meeting: what does not work there may be started again.
_IN_ACTION: frozenset[BotState | None] = frozenset({"starting", "joining", "waiting_room", "in_call", "capturing"})


class Bots:
    """What is written down of bots. The app has to be connected; every method raises `TransportError` where it is not.

    A method that changes a bot publishes its statuses, and raises `PublishError` where that did not work: the change
    stands, and `publish` or the next change makes up for it.
    """

    def __init__(self, app: Application, *, kept: float = KEPT) -> None:
        """`kept`: seconds that a bot is remembered after its last change."""
        self._app = app
        self._kept = kept

    # ── what is wanted ────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, event: BotRequested) -> Bot:
        """Write down that a bot is wanted. A bot is requested once: what is known of it stands.

        One that was asked to stop before is stopped at once.
        """

        def requested(bot: Bot) -> Bot | None:
            now = datetime.now(UTC)
            if bot.request is not None:
                return None
            wanted = bot.with_(request=event).advanced("requested", at=now, reason="requested")
            if wanted is not None and wanted.desired == "stopped":
                return wanted.advanced("stopped", at=now, reason=bot.stop_reason, sub_code="before_start")
            return wanted

        # Listed before it is there: who lists it and finds none passes it over.
        listed = {event.bot_id: datetime.now(UTC).isoformat().encode()}
        for name in (_ALL, _LIVING):
            await self._app.records.write(name, listed, ttl=self._kept)
        return await self._wanted(event.bot_id, requested)

    async def stop(self, bot_id: str, reason: str) -> Bot:
        """Write down that a bot is to leave, whether it runs, waits to be started, or is not requested yet."""

        def stopped(bot: Bot) -> Bot | None:
            if bot.desired == "stopped" or bot.is_final:
                return None
            return bot.with_(desired="stopped", stop_reason=reason, stop_requested_at=datetime.now(UTC))

        return await self._wanted(bot_id, stopped)

    async def recover(self, event: BotRecoveryRequested) -> Bot | None:
        """Write down that a bot's process is to end, for another to take its place; None where that is not to be.

        A request is heeded once, and not by a process that was started after it was made.
        """

        def recovered(bot: Bot) -> Bot | None:
            if bot.state not in _IN_ACTION or bot.desired == "stopped" or bot.evicted is not None:
                return None
            is_known = bot.eviction is not None and bot.eviction.request_id == event.request_id
            if is_known or bot.attempt_at is None or event.requested_at < bot.attempt_at:
                return None
            eviction = Eviction(
                attempt=bot.attempt,
                at=datetime.now(UTC),
                reason=event.reason,
                may_retry=True,
                request_id=event.request_id,
            )
            return bot.with_(eviction=eviction)

        return await self.change(event.bot_id, recovered)

    # ── what is ───────────────────────────────────────────────────────────────────────────────────────────────

    async def load(self, bot_id: str) -> Bot | None:
        """What is known of a bot; None where there is none, or none any more."""
        return _read(await self._app.records.read(_key(bot_id)))

    async def all(self) -> list[Bot]:
        """Every bot that is remembered, the oldest first."""
        return await self._listed(_ALL)

    async def living(self) -> list[Bot]:
        """Every bot that has not ended, the oldest first; one that ended with something unpublished is among them."""
        return await self._listed(_LIVING)

    async def change(self, bot_id: str, change: Callable[[Bot], Bot | None]) -> Bot | None:
        """Change a bot from what stands, and publish the statuses that come of it; the bot as it stands then.

        `change` is called again where somebody else was faster; it answers None where nothing is to be done, which is
        the answer here, too. None also where there is no such bot.
        """
        bot = await self._change(bot_id, change, make=False)
        return None if bot is None else await self.publish(bot)

    async def publish(self, bot: Bot) -> Bot:
        """Publish what has not been yet, in order; the bot as it stands then."""
        if bot.unpublished:
            for update in bot.unpublished:
                await self._app.publish(update, dedup_key=f"{update.bot_id}:{update.sequence}")
            told = bot.unpublished[-1].sequence

            def published(standing: Bot) -> Bot | None:
                rest = tuple(update for update in standing.unpublished if update.sequence > told)
                return None if rest == standing.unpublished else standing.with_(unpublished=rest)

            bot = await self._change(bot.bot_id, published, make=False) or bot.with_(unpublished=())
        # Also where somebody else has published the last one, and died before he came to this.
        if bot.is_final and not bot.unpublished:
            await self._app.records.delete(_LIVING, [bot.bot_id])
        return bot

    # ── what is remembered ────────────────────────────────────────────────────────────────────────────────────

    async def keep(self, bots: Collection[Bot]) -> None:
        """Have bots that live be remembered from now on, as if they had changed."""
        for name in (_ALL, _LIVING, *(_key(bot.bot_id) for bot in bots)):
            await self._app.records.swap(name, {}, expected={}, ttl=self._kept)

    async def forget(self) -> None:
        """Drop from the lists what is not remembered any more."""
        oldest = datetime.now(UTC) - timedelta(seconds=self._kept)
        for name in (_ALL, _LIVING):
            for bot_id, at in (await self._app.records.read(name)).items():
                is_old = datetime.fromisoformat(at.decode()) < oldest
                if is_old and _BOT not in await self._app.records.read(_key(bot_id)):
                    # Unless it was listed again just now: whoever requests a bot lists it first.
                    await self._app.records.swap(name, {bot_id: None}, expected={bot_id: at}, ttl=self._kept)

    async def _wanted(self, bot_id: str, change: Callable[[Bot], Bot | None]) -> Bot:
        """Change a bot, which is made where there is none; the bot as it stands."""
        changed = await self._change(bot_id, change, make=True)
        return await self.publish(changed or await self.load(bot_id) or Bot(bot_id=bot_id))

    async def _change(self, bot_id: str, change: Callable[[Bot], Bot | None], *, make: bool) -> Bot | None:
        key = _key(bot_id)
        while True:
            fields = await self._app.records.read(key)
            bot = _read(fields) or (Bot(bot_id=bot_id) if make else None)
            changed = None if bot is None else change(bot)
            if changed is None:
                return None
            new = {_BOT: changed.model_dump_json().encode()}
            if await self._app.records.swap(key, new, expected={_BOT: fields.get(_BOT)}, ttl=self._kept):
                return changed

    async def _listed(self, name: str) -> list[Bot]:
        names = await self._app.records.read(name)
        found = await asyncio.gather(*(self._readable(bot_id) for bot_id in names))
        return sorted((bot for bot in found if bot is not None), key=lambda bot: bot.created_at)

    async def _readable(self, bot_id: str) -> Bot | None:
        try:
            return await self.load(bot_id)
        except ValidationError as error:
            # Of a newer version of this package, or written by somebody else: it is no reason to see no other bot.
            log.warning("bot.unreadable", extra={"bot_id": bot_id, "error": str(error)})
            return None


def status_of(bot: Bot) -> BotStatusUpdate | None:
    """A bot's last status, as it was published; None before the first."""
    if bot.state is None or bot.changed_at is None:
        return None
    return BotStatusUpdate(
        bot_id=bot.bot_id,
        session_id=bot.request.session_id if bot.request else "",
        sequence=bot.sequence,
        state=bot.state,
        reason=bot.reason,
        sub_code=bot.sub_code,
        attempt=max(1, bot.attempt),
        participants=list(bot.participants),
        changed_at=bot.changed_at,
    )


def _key(bot_id: str) -> str:
    return f"bot-{bot_id}"


def _read(fields: Mapping[str, bytes]) -> Bot | None:
    return Bot.model_validate_json(fields[_BOT]) if _BOT in fields else None
