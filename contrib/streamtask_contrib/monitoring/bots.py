"""What is wrong with a bot in a call: it does not say that it lives, or hears nobody though others are there."""

from __future__ import annotations

from streamtask_contrib.events import BotRecoveryRequested
from streamtask_contrib.monitoring.limits import Limits
from streamtask_contrib.monitoring.samples import BotSample
from streamtask_contrib.monitoring.verdicts import Finding, Verdict

KIND = "bot"


def judge(bot: BotSample, limits: Limits) -> Verdict:
    """Whether a bot does what it should."""
    for age, limit, what in (
        (bot.beat_age, limits.bot_beat, "has not said that it lives"),
        (bot.audio_age, limits.bot_audio, "has heard nobody, though others are in the call,"),
    ):
        if age is not None and age <= limit:
            continue
        since = "since it came" if age is None else f"for {age:.0f} s"
        return Verdict(
            Finding(
                kind=KIND,
                subject=bot.bot_id,
                observed=limit if age is None else age,
                expected=limit,
                score=1.0 if age is None else age / limit,
                evidence=f"the bot {what} {since}; at most {limit:.0f} s are usual (attempt {bot.attempt})",
            ),
            is_bad=True,
        )
    return Verdict.well(KIND, bot.bot_id, bot.audio_age or 0.0, "it lives and hears")


def recovery(bot: BotSample, limits: Limits) -> BotRecoveryRequested | None:
    """What is to be asked for; None where the bot is well. The same for one process of a bot, whoever asks."""
    verdict = judge(bot, limits)
    if not verdict.is_bad:
        return None
    has_beat = bot.beat_age is not None and bot.beat_age <= limits.bot_beat
    return BotRecoveryRequested(
        request_id=f"{bot.bot_id}:{bot.attempt}",
        bot_id=bot.bot_id,
        reason="no_audio" if has_beat else "no_beat",
        evidence=verdict.finding.evidence,
    )
