"""A bot's process ends before another may be in its place, whatever has become of it, its loop, or the broker."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot.lifeline import Lifeline
from streamtask_contrib.leases import Lease

from streamtask import App
from tests.chaos.conftest import Measured, one_server
from tests.chaos.workers import until
from tests.contrib.bot.attempts import Stage, staged
from tests.contrib.pcm import quiet, tone
from tests.servers import RedisServer

pytestmark = pytest.mark.timeout(120)

#: Seconds: the shortest that is allowed.
TTL = 3.0
#: What ends a process: the thread, or the kernel's alarm.
KILLED = {-signal.SIGKILL, -signal.SIGALRM}


async def test_a_process_that_stood_still_for_longer_than_its_lease_publishes_nothing_more(
    stage: Stage, measured: Measured
) -> None:
    await stage.request("odd:", driver="talk")
    first = await stage.start(LEASE_TTL="3")
    await stage.has_chunks(2)
    first.send(signal.SIGSTOP)
    await asyncio.sleep(TTL + 0.5)
    stood = await stage.chunks()

    resumed = time.monotonic()
    first.send(signal.SIGCONT)

    assert await first.exit_code() in KILLED
    measured("seconds from SIGCONT to the end", time.monotonic() - resumed)
    assert await stage.chunks() == stood
    assert [entry.chunk for entry in await stage.written()] == stood
    await stage.start(LEASE_TTL="3")
    await stage.has_chunks(len(stood) + 1)
    chunks = await stage.chunks()
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))


@pytest.mark.parametrize(("driver", "number"), [("blocked", signal.SIGKILL), ("seized", signal.SIGALRM)])
async def test_a_process_whose_loop_stands_still_ends(stage: Stage, driver: str, number: signal.Signals) -> None:
    """A blocked loop leaves the thread to act; where something holds the interpreter, only the kernel can."""
    await stage.request("odd:", driver=driver)
    attempt = await stage.start(LEASE_TTL="3")
    await stage.state("capturing")
    assert await attempt.exit_code() == -number, attempt.said()
    if number == signal.SIGKILL:
        assert attempt.logged("bot.lease_runs_out")
    assert (await stage.bot()).ending is None


async def test_of_two_processes_of_one_bot_the_second_waits_and_gives_up(stage: Stage) -> None:
    await stage.request("odd:", driver="talk")
    first = await stage.start(LEASE_TTL="3")
    await stage.has_chunks(1)
    second = stage.process("bot", 1, LEASE_TTL="3")
    assert await second.exit_code() == 3, second.said()
    assert second.logged("bot.lease_is_anothers")
    assert not second.logged("bot.state")
    assert first.process.poll() is None
    chunks = await stage.chunks()
    await stage.has_chunks(len(chunks) + 1)


async def test_a_process_of_an_attempt_that_is_over_ends_by_itself(stage: Stage) -> None:
    await stage.request("odd:", driver="talk")
    first = await stage.start(LEASE_TTL="3")
    await stage.has_chunks(1)
    await stage.bots.change("bot", lambda bot: bot.with_(attempt=2))
    assert await first.exit_code() == 4, first.said()
    assert first.logged("bot.replaced")
    assert await stage.process("bot", 1, LEASE_TTL="3").exit_code() == 3
    assert not any(chunk.is_last for chunk in await stage.chunks())


@one_server
async def test_a_broker_that_is_away_for_longer_than_the_lease_is_the_end(
    private_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    async with staged(private_redis.url, tmp_path_factory.mktemp("stage")) as stage:
        await stage.request("odd:", driver="talk")
        attempt = await stage.start(LEASE_TTL="3")
        await stage.has_chunks(1)
        private_redis.kill()
        away = time.monotonic()
        assert await attempt.exit_code() == -signal.SIGKILL, attempt.said()
        measured("seconds without a broker", time.monotonic() - away)
        assert time.monotonic() - away < TTL + 2
        private_redis.start()


@one_server
async def test_a_broker_that_is_away_for_less_costs_no_word(
    private_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    words = 7
    async with staged(private_redis.url, tmp_path_factory.mktemp("stage")) as stage:
        name = stage.record("talk.wav", [part for _ in range(words) for part in (tone(0.7), quiet(0.8))])
        await stage.request(f"file:{name}", metadata={"names": "Anna"})
        attempt = await stage.start(LEASE_TTL="20")
        await stage.has_chunks(2)

        private_redis.kill()
        await asyncio.sleep(4)
        private_redis.start()

        assert await attempt.exit_code(60) == 0, attempt.said()
        chunks = await stage.chunks()
        measured("chunks", len(chunks))
        assert [chunk.sequence for chunk in chunks] == list(range(words + 1))
        starts = [chunk.start for chunk in chunks[:words]]
        assert [start - starts[1] for start in starts[1:]] == pytest.approx(
            [1.5 * number for number in range(words - 1)], abs=0.2
        )
        # What waited says when it was complete, not when it could be sent.
        moments = [chunk.received_at.timestamp() for chunk in chunks[:words]]
        apart = [after - before for before, after in itertools.pairwise(moments)]
        assert min(apart) > 0.5
        assert attempt.logged("bot.broker_away")


# ── alone ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_whatever_is_written_is_asked_for_first(broker: str) -> None:
    ended: list[str] = []
    async with App("test", broker=broker) as app:
        now = 100.0
        lease = Lease(app.records, "bot-lease-x", "x:1:a", ttl=TTL, clock=lambda: now)
        lifeline = Lifeline(lease, ttl=TTL, end=lambda: ended.append("ended"))
        assert await lifeline.take(within=1)
        try:
            lifeline.check()
            assert ended == []
            now += TTL - 0.2
            lifeline.check()
            assert ended
            await until(lambda: len(ended) > 1, 5)
        finally:
            await lifeline.release()
        count = len(ended)
        lifeline.check()
        assert len(ended) == count, "what is released guards nothing"
        assert await lease.holder() is None
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


async def test_what_stands_beside_the_lease_is_fresh(stage: Stage) -> None:
    await stage.request("odd:", driver="talk")
    await stage.start(LEASE_TTL="3")
    await stage.has_chunks(2)

    async def is_told() -> bool:
        facts = await stage.app.records.read("bot-lease-bot")
        return facts.get("state") == b"capturing" and int(facts["chunks"]) >= 2 and bool(facts["last_audio"])

    await until(is_told, 20)
