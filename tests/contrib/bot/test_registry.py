"""What is written down of bots: by many at once, by some who die in between, and for as long as it has to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from streamtask_contrib.bot.registry import Bots, status_of
from streamtask_contrib.bot.states import Bot, Ending
from streamtask_contrib.events import BotRecoveryRequested, BotRequested, BotState, BotStatusUpdate

from streamtask import App, PublishError
from tests.chaos.workers import until
from tests.conftest import ServerPool
from tests.servers import ServerBinary, available_servers


@pytest.fixture(params=[None, *available_servers()], ids=lambda binary: binary.name if binary else "memory")
async def app(request: pytest.FixtureRequest, server_pool: ServerPool) -> AsyncIterator[App]:
    """An app on each engine in turn."""
    binary: ServerBinary | None = request.param
    async with App("test", broker=server_pool.get(binary).url if binary else "memory://") as made:
        yield made


@pytest.fixture
def bots(app: App) -> Bots:
    return Bots(app)


def requested(bot_id: str = "b") -> BotRequested:
    return BotRequested(bot_id=bot_id, session_id=f"s-{bot_id}", meeting_url="http://127.0.0.1:9/")


def to(state: BotState, **fields: Any) -> Callable[[Bot], Bot | None]:
    return lambda bot: bot.with_(**fields).advanced(state, at=datetime.now(UTC))


async def sequences(app: App, bot_id: str = "b") -> list[int]:
    entries = await app.transport.read("bot-control", after="0", count=1000, wait=0)
    found = [app.broker.decode(entry).payload for entry in entries]
    return [each["sequence"] for each in found if each.get("bot_id") == bot_id and "sequence" in each]


async def test_a_bot_is_requested_once_and_known_by_all(app: App, bots: Bots) -> None:
    await asyncio.gather(*(Bots(app).request(requested()) for _ in range(10)))
    other = requested().model_copy(update={"meeting_url": "http://127.0.0.1:9/other"})
    bot = await bots.request(other)

    assert bot.request is not None
    assert (bot.state, bot.request.meeting_url, bot.unpublished) == ("requested", "http://127.0.0.1:9/", ())
    assert await sequences(app) == [0]
    assert await bots.all() == await bots.living() == [bot]
    assert await bots.load("nobody") is None


async def test_a_stop_stands_whenever_it_comes_and_the_first_one_counts(bots: Bots) -> None:
    before = await bots.stop("b", "first")
    assert (before.state, before.desired) == (None, "stopped")
    again = await bots.stop("b", "second")
    assert (again.stop_reason, again.stop_requested_at) == ("first", before.stop_requested_at)
    # Nobody has to look after what is not even requested.
    assert await bots.living() == await bots.all() == []

    stopped = await bots.request(requested())
    assert (stopped.state, stopped.reason, stopped.sub_code) == ("stopped", "first", "before_start")
    assert await bots.living() == []
    assert [bot.state for bot in await bots.all()] == ["stopped"]
    # What has ended is not asked to end.
    await bots.request(requested("c"))
    await bots.change("c", to("failed"))
    assert (await bots.stop("c", "late")).desired == "running"


async def test_many_who_change_a_bot_at_once_make_one_row_of_statuses(app: App, bots: Bots) -> None:
    await bots.request(requested())
    for state in ("starting", "joining", "in_call"):
        await bots.change("b", to(state))  # type: ignore[arg-type] # a state, as it stands

    async def join(name: str) -> None:
        mine = Bots(app)

        def joined(bot: Bot) -> Bot | None:
            return bot.advanced("in_call", at=datetime.now(UTC), participants=[*bot.participants, name])

        assert await mine.change("b", joined) is not None

    names = {f"p{n}" for n in range(32)}
    await asyncio.gather(*map(join, names))
    bot = await bots.load("b")
    assert bot is not None
    # None was made on what had been replaced meanwhile.
    assert set(bot.participants) == names
    assert (bot.sequence, bot.unpublished) == (3 + len(names), ())
    assert await sequences(app) == list(range(bot.sequence + 1))


class Failing:
    """An app whose next publishes do not work, or work and are not known to have."""

    def __init__(self, app: App, *, kept: bool) -> None:
        self._app = app
        self._kept = kept
        self.records = app.records

    async def publish(self, event: Any, *, dedup_key: str | None = None) -> str:
        if self._kept:
            await self._app.publish(event, dedup_key=dedup_key)
        raise PublishError("as it happens", event_id="1")


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "not stored"])
async def test_a_status_that_could_not_be_published_is_published_by_whoever_comes_next(
    app: App, bots: Bots, *, kept: bool
) -> None:
    failing = Bots(Failing(app, kept=kept))
    with pytest.raises(PublishError):
        await failing.request(requested())
    with pytest.raises(PublishError):
        await failing.change("b", to("starting"))
    standing = await bots.load("b")
    assert standing is not None
    assert [update.sequence for update in standing.unpublished] == [0, 1]

    published = await bots.publish(standing)
    assert published.unpublished == ()
    assert await sequences(app) == [0, 1]
    # With what somebody has read before, it is published once all the same.
    await bots.publish(standing)
    assert await sequences(app) == [0, 1]


async def test_the_last_status_of_a_bot_is_published_before_it_is_off_the_list(app: App, bots: Bots) -> None:
    await bots.request(requested())
    with pytest.raises(PublishError):
        await Bots(Failing(app, kept=False)).change("b", to("failed"))
    [bot] = await bots.living()
    assert (bot.state, len(bot.unpublished)) == ("failed", 1)
    await bots.publish(bot)
    assert await bots.living() == []
    assert await sequences(app) == [0, 1]


async def test_a_bot_whose_end_was_told_by_one_who_died_then_comes_off_the_list(app: App, bots: Bots) -> None:
    await bots.request(requested())
    bot = await bots.change("b", to("failed"))
    assert bot is not None
    # He had written down that it is published, and not more.
    await app.records.write("bots-living", {"b": datetime.now(UTC).isoformat().encode()}, ttl=60)
    [listed] = await bots.living()
    await bots.publish(listed)
    assert await bots.living() == []


async def test_no_change_is_made_where_nothing_is_to_be_done_or_nothing_is(bots: Bots) -> None:
    await bots.request(requested())
    assert await bots.change("b", lambda _: None) is None
    assert await bots.change("b", to("in_call")) is None
    assert await bots.change("nobody", to("starting")) is None
    assert await bots.load("nobody") is None


async def test_a_bot_that_cannot_be_read_hides_no_other(app: App, bots: Bots) -> None:
    await bots.request(requested("b"))
    await bots.request(requested("c"))
    await app.records.write("bot-b", {"bot": b'{"state": "dancing"}'}, ttl=60)
    assert [bot.bot_id for bot in await bots.living()] == ["c"]
    await bots.forget()


# ── recovery ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_recovery_is_written_down_once_and_only_of_what_runs(bots: Bots) -> None:
    request = BotRecoveryRequested(request_id="r", bot_id="b", reason="no_audio")
    assert await bots.recover(request) is None
    await bots.request(requested())
    assert await bots.recover(request) is None
    await bots.change("b", to("starting", attempt=1, attempt_at=datetime.now(UTC)))
    # It was meant for something that was before this process.
    assert await bots.recover(request) is None

    request = request.model_copy(update={"requested_at": datetime.now(UTC)})
    bot = await bots.recover(request)
    assert bot is not None
    assert bot.evicted is not None
    assert (bot.evicted.reason, bot.evicted.may_retry, bot.state) == ("no_audio", True, "starting")
    assert await bots.recover(request.model_copy(update={"request_id": "r2"})) is None

    await bots.change("b", to("starting", attempt=2, attempt_at=datetime.now(UTC) - timedelta(hours=1)))
    assert await bots.recover(request) is None
    assert await bots.recover(request.model_copy(update={"request_id": "r2"})) is not None


@pytest.mark.parametrize("state", ["leaving", "stopped"])
async def test_what_is_about_to_end_is_not_recovered(bots: Bots, state: BotState) -> None:
    await bots.request(requested())
    for each in ("starting", state):
        await bots.change("b", to(each, attempt=1, attempt_at=datetime.now(UTC)))  # type: ignore[arg-type] # as above
    assert await bots.recover(BotRecoveryRequested(request_id="r", bot_id="b", reason="no_audio")) is None


# ── how long ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_lives_is_remembered_and_what_is_over_forgotten(app: App) -> None:
    bots = Bots(app, kept=1.0)
    lives = await bots.request(requested("lives"))
    await bots.request(requested("over"))

    async def is_forgotten() -> bool:
        await bots.keep([lives])
        return await bots.load("over") is None

    await until(is_forgotten, 10, every=0.2)
    assert "over" in await app.records.read("bots")
    await bots.forget()
    assert set(await app.records.read("bots")) == set(await app.records.read("bots-living")) == {"lives"}
    assert [bot.bot_id for bot in await bots.living()] == ["lives"]


async def test_a_bot_that_is_requested_again_while_it_is_forgotten_stays_on_the_list(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    bots = Bots(app, kept=60.0)
    long_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat().encode()
    for name in ("bots", "bots-living"):
        await app.records.write(name, {"b": long_ago}, ttl=60)
    read = app.records.read

    class Slow:
        """Records in which the bot is requested after it was looked for, and not found."""

        def __getattr__(self, name: str) -> Any:
            return getattr(app.records, name)

        async def read(self, key: str) -> dict[str, bytes]:
            found = await read(key)
            if key == "bot-b" and not found:
                await bots.request(requested())
            return found

    class SlowApp:
        records = Slow()

    await Bots(SlowApp(), kept=60.0).forget()  # type: ignore[arg-type] # it publishes nothing
    for listed in (await bots.living(), await bots.all()):
        assert [bot.bot_id for bot in listed] == ["b"]


def test_the_last_status_of_a_bot_is_as_it_was_published() -> None:
    bot = Bot(bot_id="b", attempt=2, ending=Ending(state="stopped", reason="x"))
    assert status_of(bot) is None
    for state in ("requested", "starting"):
        advanced = bot.advanced(state, at=datetime.now(UTC), reason=state, participants=["Anna"])  # type: ignore[arg-type] # as above
        assert advanced is not None
        bot = advanced
    assert isinstance(status_of(bot), BotStatusUpdate)
    assert status_of(bot) == bot.unpublished[-1]
