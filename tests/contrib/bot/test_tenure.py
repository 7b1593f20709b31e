"""Who an orchestrator is: for as long as its lease runs, and nobody any more behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from streamtask_contrib.bot.decisions import Owner
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.bot.tenure import LateError, Tenure

from streamtask import App


@pytest.fixture
async def app(broker: str) -> AsyncIterator[App]:
    async with App("test", broker=broker) as made:
        yield made


def changed(bot: Bot) -> Bot:
    return bot.with_(reason="changed")


async def test_it_is_known_to_others_from_its_first_moment_to_its_last(app: App) -> None:
    mine, other = Tenure(app, place="here", ttl=60), Tenure(app, place="there", ttl=60)
    assert await other.other(mine.name) is None
    with pytest.raises(LateError):
        await mine.check()
    for _ in range(3):
        name = mine.name
        await mine.hold()
        await mine.check()
        assert mine.name == name
    assert await other.other(mine.name) == Owner(place="here")
    await mine.end()
    assert await other.other(mine.name) is None
    with pytest.raises(LateError):
        await mine.check()


async def test_one_whose_lease_has_run_out_goes_on_as_another(app: App) -> None:
    tenure = Tenure(app, place="here", ttl=0.3)
    await tenure.hold()
    before, bot = tenure.name, Bot(bot_id="b", owner=tenure.name, attempt=1)
    assert tenure.ours(bot, changed)(bot) is not None
    await asyncio.sleep(0.35)
    with pytest.raises(LateError):
        await tenure.check()
    await tenure.hold()
    assert tenure.name != before
    assert await tenure.other(before) is None
    # What was the old one's is not the new one's.
    assert tenure.ours(bot, changed)(bot) is None


async def test_one_whose_lease_is_gone_from_the_broker_finds_out_before_it_acts(app: App) -> None:
    tenure = Tenure(app, place="here", ttl=60)
    await tenure.hold()
    before = tenure.name
    await app.records.delete(f"bot-orchestrator-{before}")
    await tenure.hold()
    assert tenure.name != before


async def test_a_change_is_made_only_of_what_is_ours_still(app: App) -> None:
    tenure = Tenure(app, place="here", ttl=60)
    bot = Bot(bot_id="b", owner=tenure.name, attempt=1).with_(state="in_call")
    change = tenure.ours(bot, changed)
    assert change(bot.with_(participants=("Anna",))) is not None
    for standing in (bot.with_(owner="another"), bot.with_(attempt=2), bot.with_(state="stopped")):
        assert change(standing) is None
