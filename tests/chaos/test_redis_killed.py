"""A server that dies, forgets, fills up, becomes a replica or stands still under load: nothing is lost or doubled, and
workers go on by themselves.

The load is two workers and a publisher that publishes again, with the same event id, whatever raised. Each event is
handled into one other event, so that an effect that was committed twice shows in the stream.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from streamtask import App
from streamtask.envelope import new_event_id
from streamtask.errors import StoreFullError
from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.oracle import LOAD, LONG_RUNNING, Task, consuming_again, each_event_once, no_suspects, words_of
from tests.chaos.workers import (
    LONG,
    Job,
    Ledger,
    Publisher,
    dead_letters,
    emitted,
    nothing_pending,
    publish,
    until,
)
from tests.servers import RedisServer, ServerBinary, free_port

#: The long ones, and a tenth of the others fails at first.
FAILS_ONCE = LONG_RUNNING.replace(
    '    note("end"',
    """    await asyncio.sleep(0.1)
    if job.kind == "fails" and ctx.attempt == 1:
        raise ValueError("again")
    note("end\"""",
).replace("@app.on(Job)", "@app.on(Job, retry=Retry(3, backoff=1.0))")

#: Beside the load, events that are handled into nothing.
WITHOUT_EFFECTS = (
    LOAD
    + """

class Plain(Event, stream="plain"):
    n: int


@app.on(Plain)
async def plain(plain: Plain) -> None:
    note("plain", plain.n)
"""
)

#: Keeps nothing that is handled.
SHORT_MEMORY = """
from streamtask import Retention

app = App("chaos", retention=Retention(max_age=1.0))


@app.on(Job)
async def handle(job: Job) -> None:
    note("end", job.n)
"""


class Plain(Job, stream="plain"):
    pass


@one_server
@pytest.mark.timeout(600 if LONG else 180)
async def test_a_server_killed_again_and_again_loses_nothing_doubles_nothing_and_is_consumed_within_seconds(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url, kills = private_redis.url, 100 if LONG else 20
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    began, waits = time.monotonic(), []
    async with Publisher(url, lanes=3) as publisher:
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.3, 1.0))
            private_redis.kill()
            # Mostly back before anybody's first pause is over, sometimes after several.
            await asyncio.sleep(random.choice((0.0, 0.0, 1.5)))
            private_redis.start()
            waits.append(await consuming_again(ledger, publisher, 15))

    measured("seconds until consuming again, longest", max(waits))
    measured("seconds until consuming again, median", sorted(waits)[kills // 2])
    await each_event_once(url, ledger, publisher, measured)
    measured("seconds in all", time.monotonic() - began)
    unconfirmed = sum(len(worker.logs("settle.unconfirmed")) for worker in workers)
    measured("settlements whose reply the kill had cut off", unconfirmed)
    no_suspects(workers)
    assert max(waits) < 15


@pytest.fixture
def forgetful_redis(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server of the test's own that keeps nothing."""
    server = RedisServer(server_binary)
    server.start()
    yield server
    server.close()


@one_server
@pytest.mark.parametrize("how", ["restarted", "flushed"])
async def test_a_server_that_comes_back_empty_is_consumed_again_within_seconds_and_with_few_words(
    forgetful_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, how: str
) -> None:
    url = forgetful_redis.url
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    waits, told = [], []
    async with Publisher(url) as publisher:
        for _ in range(20 if LONG else 3):
            await asyncio.sleep(0.5)
            before, words = time.monotonic(), words_of(workers)
            if how == "flushed":
                forgetful_redis.client().flushall()
            else:
                forgetful_redis.kill()
                forgetful_redis.start()
            waits.append(await consuming_again(ledger, publisher, 15))
            await asyncio.sleep(2.0)
            told.append((words_of(workers) - words).total() / len(workers) / (time.monotonic() - before))
            emptied = before

    measured("seconds until consuming again, longest", max(waits))
    measured("log lines a second and worker, most, without those of lost leases", max(told))
    # What was in the server is gone. All that came after it was empty for the last time stands there and is handled.
    since = {n for n, asked in publisher.asked.items() if asked > emptied + 1}
    await nothing_pending(url, within=20)
    made = Counter(each["n"] for each in await emitted(url, "made"))
    assert {n: made[n] for n in since} == dict.fromkeys(since, 1)
    assert max(made.values()) == 1
    assert await dead_letters(url, "jobs") == []
    assert max(waits) < 15
    assert max(told) < 5
    no_suspects(workers)


@one_server
async def test_connections_dropped_fifty_times_under_load_lose_nothing_and_double_nothing(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    admin = private_redis.client()
    async with Publisher(url, every=0.002) as publisher:
        for _ in range(500 if LONG else 50):
            admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(random.uniform(0.0, 0.3))

    await each_event_once(url, ledger, publisher, measured)
    no_suspects(workers)


@one_server
async def test_scripts_forgotten_all_the_time_cost_nothing(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    admin = private_redis.client()
    async with Publisher(url, every=0.002) as publisher:
        for _ in range(3000 if LONG else 300):
            admin.script_flush()
            await asyncio.sleep(0.01)

    await each_event_once(url, ledger, publisher, measured)
    assert publisher.raised == Counter()
    assert set(ledger.count("start").values()) == {1}
    assert {line["event"] for worker in workers for line in worker.logs() if line["level"] != "INFO"} <= {"info"}


@one_server
@pytest.mark.parametrize("seconds", [1.0, 2.0, 4.0, 8.0, 16.0] if LONG else [8.0])
async def test_a_server_that_stands_still_makes_no_running_handler_run_twice_and_no_event_double(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured, *, seconds: float
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, LONG_RUNNING, concurrency=50, lease=3.0) for _ in range(2)]
    await publish(url, [Task(n=n) for n in range(20)])
    await until(lambda: len(ledger.lines("long")) == 20, 10)
    async with Publisher(url) as publisher:
        await asyncio.sleep(1.0)
        private_redis.pause()
        await asyncio.sleep(seconds)
        private_redis.resume()
        wait = await consuming_again(ledger, publisher, 15)
        # Time for whoever would take the long ones over: in the first ten seconds nobody is taken for dead.
        await asyncio.sleep(12.0)
        ledger.open_gate("go")

    measured("seconds until consuming again", wait)
    await nothing_pending(url, "tasks")
    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(20)}
    await each_event_once(url, ledger, publisher, measured, long_ones=20)
    assert [line for worker in workers for line in worker.logs("lease_lost")] == []
    no_suspects(workers)


@one_server
async def test_a_server_that_is_a_replica_for_a_while_is_consumed_again_within_seconds(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, LONG_RUNNING, concurrency=50, lease=3.0) for _ in range(2)]
    await publish(url, [Task(n=n) for n in range(20)])
    await until(lambda: len(ledger.lines("long")) == 20, 10)
    admin = private_redis.client()
    async with Publisher(url) as publisher:
        await asyncio.sleep(1.0)
        words, before = words_of(workers), time.monotonic()
        admin.replicaof("127.0.0.1", 1)
        await asyncio.sleep(6.0)
        told = (words_of(workers) - words).total() / len(workers) / (time.monotonic() - before)
        admin.replicaof("no", "one")
        wait = await consuming_again(ledger, publisher, 15)
        await asyncio.sleep(7.0)
        ledger.open_gate("go")

    measured("seconds until consuming again", wait)
    measured("log lines a second and worker", told)
    assert publisher.raised["PublishError"] > 10
    await nothing_pending(url, "tasks")
    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(20)}
    await each_event_once(url, ledger, publisher, measured, long_ones=20)
    assert told < 5
    no_suspects(workers)


@pytest.fixture
def pair(server_binary: ServerBinary) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    primary, replica = (RedisServer(server_binary, tcp=True, appendfsync="always") for _ in range(2))
    try:
        primary.start("--repl-diskless-sync-delay", "0")
        replica.start("--replicaof", "127.0.0.1", str(primary.port))
        yield primary, replica
    finally:
        primary.close()
        replica.close()


@one_server
async def test_a_failover_behind_one_address_is_followed_within_seconds_though_the_old_primary_lives(
    pair: tuple[RedisServer, RedisServer],
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
    tmp_path: Path,
) -> None:
    primary, replica = pair
    front = tmp_path / "front"
    front.symlink_to(primary.socket)
    url = f"unix://{front}"
    await until(lambda: replica.client().info("replication")["master_link_status"] == "up", 15)
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    async with Publisher(url) as publisher:
        await asyncio.sleep(1.0)
        # In order: the primary takes no writes until its replica has them all.
        primary.client().execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
        await until(lambda: replica.client().info("replication")["role"] == "master", 10)
        front.unlink()
        front.symlink_to(replica.socket)
        wait = await consuming_again(ledger, publisher, 15)
        await asyncio.sleep(3.0)

    measured("seconds until consuming again", wait)
    await each_event_once(url, ledger, publisher, measured)
    assert primary.client().info("replication")["role"] == "slave"
    no_suspects(workers)


@pytest.fixture
def sentinel(pair: tuple[RedisServer, RedisServer], tmp_path: Path) -> Iterator[redis.Redis]:
    """A sentinel that watches over the pair by the name `main`."""
    primary, _ = pair
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
    )
    command = [str(primary.binary.path), str(config), "--sentinel"]
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | primary.binary.env, stdout=log, stderr=log)
    client = redis.Redis(port=port, socket_timeout=5.0)
    try:
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@one_server
async def test_a_failover_by_sentinel_is_followed_and_loses_nothing_that_a_replica_had_to_have(
    pair: tuple[RedisServer, RedisServer],
    sentinel: redis.Redis,
    start_worker: StartWorker,
    ledger: Ledger,
    measured: Measured,
) -> None:
    primary, replica = pair
    for server in pair:
        # A primary without its replica takes no writes: that is what makes a failover lose nothing.
        server.client().config_set("min-replicas-max-lag", 3)
        server.client().config_set("min-replicas-to-write", 1)
    url = f"redis+sentinel://127.0.0.1:{sentinel.connection_pool.connection_kwargs['port']}/main"
    await until(lambda: _knows_a_replica(sentinel), 20)
    workers = [await start_worker(url, LOAD, concurrency=50) for _ in range(2)]
    # What the primary takes before it notices that its replica has left is lost; who waits for the replica is told.
    async with Publisher(url, durability="replica") as publisher:
        await asyncio.sleep(1.0)
        sentinel.execute_command("SENTINEL", "FAILOVER", "main")
        await until(lambda: _role(replica) == "master", 20)
        promoted = time.monotonic()
        await until(lambda: _role(primary) == "slave", 30)
        measured("seconds until the old primary was demoted", time.monotonic() - promoted)
        wait = await consuming_again(ledger, publisher, 20)
        await asyncio.sleep(1.0)

    measured("seconds until consuming again, from then", wait)
    await each_event_once(url, ledger, publisher, measured)
    no_suspects(workers)


def _role(server: RedisServer) -> str:
    """What a server is; nothing while it changes that, and drops its clients."""
    with suppress(redis.RedisError):
        return str(server.client().info("replication")["role"])
    return ""


def _knows_a_replica(sentinel: redis.Redis) -> bool:
    with suppress(redis.RedisError):
        [primary] = sentinel.sentinel_masters().values()
        return bool(primary["num-slaves"])
    return False


@one_server
async def test_a_full_server_refuses_publishes_at_once_and_goes_on_to_be_drained(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    workers = [await start_worker(url, FAILS_ONCE, concurrency=10, lease=3.0) for _ in range(2)]
    await publish(url, [Task(n=n) for n in range(4)])
    await until(lambda: len(ledger.lines("long")) == 4, 10)
    await publish(url, [Job(n=n, kind="fails" if n % 10 == 0 else "") for n in range(500)])
    admin = private_redis.client()
    async with App("chaos", broker=url) as app:
        admin.config_set("maxmemory", 1)
        began, words = time.monotonic(), words_of(workers)
        with pytest.raises(StoreFullError):
            await app.publish(Job(n=1000))
        measured("seconds until a publish was refused", time.monotonic() - began)
        assert time.monotonic() - began < 1
        assert len(ledger.lines("end")) < 250
        for options in ({"event_id": new_event_id()}, {"dedup_key": "x"}, {"delay": 1.0}):
            with pytest.raises(StoreFullError):
                await app.publish(Job(n=1000), **options)

        # All of it is handled, retried and acked by a server that is full.
        await until(lambda: len(ledger.count("end")) == 500, 20)
        await nothing_pending(url)
        measured("seconds until the full server was drained", time.monotonic() - began)
        # Longer than a lease, and than a heartbeat lives.
        await asyncio.sleep(max(0.0, began + 10.0 - time.monotonic()))
        told = (words_of(workers) - words - Counter({"event.retry": 50})).total() / len(workers)
        measured("log lines a second and worker", told / (time.monotonic() - began))
        with pytest.raises(StoreFullError):
            await app.publish(Job(n=1000))

        admin.config_set("maxmemory", 0)
        freed = time.monotonic()
        await app.publish(Job(n=1000))
        await until(lambda: ledger.count("end")["1000"], 15)
        measured("seconds until a new event was handled", time.monotonic() - freed)
    await asyncio.sleep(7.0)
    ledger.open_gate("go")
    await nothing_pending(url, "tasks")
    await nothing_pending(url)

    assert ledger.count("long") == ledger.count("long-end") == {str(n): 1 for n in range(4)}
    assert ledger.count("end") == {str(n): 1 for n in [*range(500), 1000]}
    made = await emitted(url, "made")
    assert Counter(each["n"] for each in made if not each["by"]) == Counter([*range(500), 1000])
    assert Counter(each["n"] for each in made if each["by"]) == Counter(range(4))
    assert await dead_letters(url, "jobs") == await dead_letters(url, "tasks") == []
    assert told / 10 < 5
    no_suspects(workers)


@one_server
async def test_a_worker_that_starts_while_the_server_is_full_drains_it(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = private_redis.url
    first = await start_worker(url, LOAD)
    await first.terminate()
    await publish(url, [Job(n=n) for n in range(100)])
    private_redis.client().config_set("maxmemory", 1)

    await start_worker(url, LOAD)
    await until(lambda: len(ledger.count("end")) == 100, 15)
    await nothing_pending(url)
    assert Counter(each["n"] for each in await emitted(url, "made")) == Counter(range(100))


@one_server
async def test_a_full_server_has_room_again_once_what_it_keeps_is_handled_and_too_old(
    private_redis: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = private_redis.url
    await start_worker(url, SHORT_MEMORY)
    await publish(url, [Job(n=n, kind="x" * 10_000) for n in range(2000)])
    await until(lambda: len(ledger.lines("end")) == 2000, 20)
    await nothing_pending(url)
    admin = private_redis.client()
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] // 2)
    full = time.monotonic()

    async with App("chaos", broker=url) as app:
        with pytest.raises(StoreFullError):
            await app.publish(Job(n=2000))

        async def has_room() -> bool:
            try:
                await app.publish(Job(n=2000))
            except StoreFullError:
                return False
            return True

        # A janitor tidies up every ten seconds.
        await until(has_room, 30, every=0.5)
    measured("seconds until there was room", time.monotonic() - full)


async def test_an_effect_that_cannot_be_stored_stays_pending_and_holds_up_nothing_else(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    client = redis_server.client()
    client.set("stream:made", "no stream")
    worker = await start_worker(url, WITHOUT_EFFECTS)
    await publish(url, [Job(n=0)])
    await until(lambda: worker.logs("settle.failed"), 10)
    began = time.monotonic()
    await publish(url, [Plain(n=n) for n in range(100)])
    await until(lambda: len(ledger.lines("plain")) == 100, 10)
    await nothing_pending(url, "plain")
    measured("seconds until what has no such effect was settled", time.monotonic() - began)

    client.delete("stream:made")
    await nothing_pending(url)
    assert [each["n"] for each in await emitted(url, "made")] == [0]
    assert ledger.count("start") == {"0": 1}
    assert await dead_letters(url, "jobs") == []
