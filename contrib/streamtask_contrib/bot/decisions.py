"""What is to be done with a bot now. Pure: reads no clock, no record and no process, and does nothing."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot

#: Seconds that a bot has for ending itself where it takes too long to join, before its orchestrator does.
_JOIN_GRACE = 15.0

#: What can be seen of a bot's process: it is alive; it is dead, and others that it has started are not; nothing is
#: left of it; it is where nobody here can see it, and may be alive.
Sight = Literal["alive", "remains", "gone", "unseen"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing, for now."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Write down that its process has to go."""

    reason: str
    may_retry: bool


@dataclass(frozen=True, slots=True)
class Signal:
    """Send this to its process and its group."""

    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the next process in place of the one that is gone."""

    reason: str
    sub_code: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Write down its end."""

    state: Literal["stopped", "failed"]
    reason: str
    sub_code: str = ""


Action = Wait | Evict | Signal | Restart | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """An orchestrator that holds its lease."""

    place: str


def decide(bot: Bot, sight: Sight, *, now: datetime, reachable_since: datetime, settings: BotSettings) -> Action:
    """What its orchestrator does with a bot now.

    `reachable_since`: before it, the bot could read no question and tell nothing; no time limit counts that.
    """
    if bot.is_final or bot.state is None:
        return Wait()
    if bot.state == "requested":
        return Finish("stopped", bot.stop_reason, "before_start") if bot.desired == "stopped" else Wait()
    if sight == "gone":
        return _after_death(bot, settings)
    if sight == "remains":
        return Signal(signal.SIGKILL)
    if sight == "unseen":
        return Wait()
    return _while_alive(bot, now=now, reachable_since=reachable_since, settings=settings)


def may_adopt(bot: Bot, owner: Owner | None, *, here: str, missing_for: float, grace: float) -> bool:
    """Whether an orchestrator at `here` takes a bot over from its owner, whose lease has been missing for so long.

    Those at the place of its process come first, for they can see and end it; one that cannot gives it up to them.
    """
    is_here = bot.process is not None and bot.process.place == here
    if owner is not None:
        return is_here and owner.place != here
    return is_here or missing_for >= grace


def _while_alive(bot: Bot, *, now: datetime, reachable_since: datetime, settings: BotSettings) -> Action:
    asked = _asked_at(bot, settings)
    if asked is not None:
        waited = now - max(asked, reachable_since)
        if waited >= timedelta(seconds=settings.kill_after):
            return Signal(signal.SIGKILL)
        return Signal(signal.SIGTERM) if waited >= timedelta(seconds=settings.terminate_after) else Wait()
    lasted = now - max(bot.state_since or now, reachable_since)
    if bot.state == "starting" and lasted > timedelta(seconds=settings.start_timeout):
        # It has not said a word: the next one may have more luck.
        return Evict("start_timeout", may_retry=True)
    if bot.state == "joining" and lasted > timedelta(seconds=settings.join_timeout + _JOIN_GRACE):
        return Evict("join_timeout", may_retry=False)
    return Wait()


def _asked_at(bot: Bot, settings: BotSettings) -> datetime | None:
    """From when the steps of ending it count; None where it may live."""
    moments = [bot.stop_requested_at] if bot.desired == "stopped" else []
    moments += [bot.state_since] if bot.state == "leaving" else []
    if bot.evicted is not None:
        # There is nothing to ask it for: the first step is behind it.
        moments.append(bot.evicted.at - timedelta(seconds=settings.terminate_after))
    return min((moment for moment in moments if moment is not None), default=None)


def _after_death(bot: Bot, settings: BotSettings) -> Action:
    """What becomes of a bot without a process. What a user wants comes first, then what was decided, then its word."""
    ending, evicted = bot.ending, bot.evicted
    if ending is not None and not ending.may_retry and (evicted is None or bot.desired == "stopped"):
        return Finish(ending.state, ending.reason, ending.sub_code)
    if bot.desired == "stopped":
        return Finish("stopped", bot.stop_reason, "killed" if ending is None else "")
    if evicted is not None:
        return _again(bot, evicted.reason, "", may_retry=evicted.may_retry, settings=settings)
    if ending is not None:
        return _again(bot, ending.reason, ending.sub_code, may_retry=True, settings=settings)
    if bot.state == "leaving":
        # It was about to go, and has gone.
        return Finish("stopped", bot.reason, "killed")
    return _again(bot, "process_lost", "", may_retry=True, settings=settings)


def _again(bot: Bot, reason: str, sub_code: str, *, may_retry: bool, settings: BotSettings) -> Action:
    if may_retry and bot.attempt < settings.max_attempts:
        return Restart(reason, sub_code)
    return Finish("failed", reason, sub_code)
