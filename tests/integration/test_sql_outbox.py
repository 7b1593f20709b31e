"""`SqlOutbox`: what a transaction has committed is published, once and in its order; nothing else is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamtask import App, ConfigurationError, Event, EventRefusedError, TransportError
from streamtask.sql.relay import Relay
from streamtask.sql.rows import Publish, Row, Table
from tests.chaos.conftest import one_server
from tests.chaos.workers import until
from tests.servers import RedisServer

sa = pytest.importorskip("sqlalchemy")
pytest.importorskip("aiosqlite")
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine  # noqa: E402
from sqlalchemy.orm import Session, scoped_session, sessionmaker  # noqa: E402

from streamtask.sql.alchemy import SqlOutbox  # noqa: E402

#: Seconds between two looks of relays that are only to look when they are told to.
SELDOM = 60.0


class Placed(Event, stream="sql-orders"):
    n: int


class Urgent(Event, stream="sql-urgent", priorities=("high", "low")):
    n: int


class Billed(Event, stream="sql-bills"):
    n: int


@pytest.fixture
def app() -> App:
    return App("shop", broker="memory://")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    """A real file, with a second connection always possible."""
    made = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    yield made
    made.dispose()


@pytest.fixture
def outbox(app: App, engine: Any) -> SqlOutbox:
    return made_in(engine, app)


def made_in(engine: Any, app: App) -> SqlOutbox:
    """An outbox whose table is there, as a part of somebody's metadata."""
    outbox = SqlOutbox(app, engine)
    metadata = sa.MetaData()
    outbox.table(metadata)
    metadata.create_all(engine)
    return outbox


def waiting(engine: Any) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text("SELECT count(*) FROM streamtask_outbox")))


async def published(app: App, stream: str = "sql-orders") -> list[Any]:
    """Every envelope of a stream, from a connection that is open already."""
    found, after = [], "0"
    while page := await app.transport.read(stream, after=after, count=1000, wait=0.0):
        after = page[-1].entry_id
        found += [app.broker.decode(delivery) for delivery in page]
    return found


async def numbers(app: App, stream: str = "sql-orders") -> list[int]:
    return [envelope.payload["n"] for envelope in await published(app, stream)]


# ── with the transaction ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_committed_is_published_and_what_is_rolled_back_is_not(
    app: App, engine: Any, outbox: SqlOutbox
) -> None:
    async with app, outbox.relay(every=0.05):
        with Session(engine) as session:
            outbox.publish(session, Placed(n=1))
            session.flush()
            assert await numbers(app) == []
            session.rollback()
            outbox.publish(session, Placed(n=2))
            with session.begin_nested() as savepoint:
                outbox.publish(session, Placed(n=3))
                session.flush()
                savepoint.rollback()
            outbox.publish(session, Placed(n=4))
            session.commit()
        with Session(engine) as session:
            outbox.publish(session, Placed(n=5))  # closed without a commit
        with pytest.raises(ZeroDivisionError), Session(engine) as session, session.begin():
            outbox.publish(session, Placed(n=1 // 0))

        await until(lambda: waiting(engine) == 0, 10)
        assert await numbers(app) == [2, 4]


async def test_a_session_of_asyncio_and_its_engine_do_the_same(app: App, tmp_path: Path, engine: Any) -> None:
    made_in(engine, app)
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    outbox = SqlOutbox(app, async_engine)
    async with app, outbox.relay(every=SELDOM):
        async with AsyncSession(async_engine) as session:
            outbox.publish(session, Placed(n=1))
            await session.rollback()
        async with AsyncSession(async_engine) as session, session.begin():
            outbox.publish(session, Placed(n=2))
            outbox.publish(session, Placed(n=3))

        await until(lambda: waiting(engine) == 0, 10)
        assert await numbers(app) == [2, 3]
    await async_engine.dispose()


async def test_a_commit_wakes_a_relay_of_its_process_at_once(app: App, engine: Any, outbox: SqlOutbox) -> None:
    async with app, outbox.relay(every=SELDOM):
        await asyncio.sleep(0.1)  # it has looked, and will not look again by itself
        for n in range(3):
            with Session(engine) as session:
                outbox.publish(session, Placed(n=n))
                session.commit()
            await until(lambda n=n: _has(app, n), 10)


async def test_a_commit_in_another_thread_wakes_it_too(app: App, engine: Any, outbox: SqlOutbox) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def work() -> None:
        outbox.publish(sessions, Placed(n=7))
        sessions.commit()
        sessions.remove()

    async with app, outbox.relay(every=SELDOM):
        await asyncio.sleep(0.1)
        await asyncio.to_thread(work)
        await until(lambda: _has(app, 7), 10)


async def test_a_scoped_session_of_asyncio_is_a_session(app: App, tmp_path: Path, engine: Any) -> None:
    made_in(engine, app)
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    sessions = async_scoped_session(sessionmaker(async_engine, class_=AsyncSession), scopefunc=asyncio.current_task)
    outbox = SqlOutbox(app)
    outbox.publish(sessions, Placed(n=1))
    await sessions.commit()
    await sessions.remove()
    await async_engine.dispose()
    assert waiting(engine) == 1


async def _has(app: App, n: int) -> bool:
    return n in await numbers(app)


async def test_an_event_keeps_its_id_its_headers_and_the_moment_that_it_was_given(
    app: App, engine: Any, outbox: SqlOutbox
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with Session(engine) as session:
        event_id = outbox.publish(session, Placed(n=1), headers={"tenant": "7"})
        outbox.publish(session, Placed(n=2), delay=3600)
        outbox.publish(session, Placed(n=3), at=soon)
        session.commit()
    async with app, outbox.relay():
        await until(lambda: waiting(engine) == 0, 10)
        [envelope] = await published(app)
        assert app.transport.schedule is not None
        scheduled = await app.transport.schedule.scheduled("sql-orders", limit=5)
    assert (envelope.event_id, envelope.headers) == (event_id, {"tenant": "7"})
    assert [3500_000 < int(str(each["due_in_ms"])) <= 3600_000 for each in scheduled] == [True, True]


async def test_a_call_of_a_task_is_an_event_as_well(app: App, engine: Any, outbox: SqlOutbox) -> None:
    @app.task
    async def bill(order_id: int, *, copies: int = 1) -> int:
        return order_id * copies

    with Session(engine) as session:
        call_id = outbox.publish(session, bill.call((21,), {"copies": 2}))
        session.commit()
    async with app.worker(), outbox.relay():
        assert await bill.handle(call_id).result(timeout=10) == 42


async def test_an_event_goes_the_way_of_its_priority(app: App, engine: Any, outbox: SqlOutbox) -> None:
    with Session(engine) as session:
        outbox.publish(session, Urgent(n=1), priority="low")
        outbox.publish(session, Urgent(n=2), priority="high")
        outbox.publish(session, Urgent(n=3))
        with pytest.raises(ConfigurationError, match="priorit"):
            outbox.publish(session, Placed(n=4), priority="high")
        session.commit()
    async with app, outbox.relay():
        await until(lambda: waiting(engine) == 0, 10)
        assert [await numbers(app, f"sql-urgent{lane}") for lane in ("@high", "", "@low")] == [[2], [3], [1]]


@pytest.mark.parametrize(
    "options",
    [{"delay": -1}, {"delay": 1, "at": datetime.now(UTC)}, {"at": datetime(2030, 1, 1)}],  # noqa: DTZ001
)
def test_a_time_that_is_none_is_refused_and_nothing_is_added(
    outbox: SqlOutbox, engine: Any, options: dict[str, Any]
) -> None:
    with Session(engine) as session:
        with pytest.raises(ValueError, match=r"delay|at"):
            outbox.publish(session, Placed(n=1), **options)
        assert not session.new


def test_an_event_that_could_not_be_read_back_is_refused_in_the_transaction(outbox: SqlOutbox, engine: Any) -> None:
    with Session(engine) as session:
        with pytest.raises(EventRefusedError):
            outbox.publish(session, Placed.model_construct(n="none"))
        assert not session.new


async def test_a_relay_without_an_engine_says_what_it_needs(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"SqlOutbox\(app, engine\)"):
        SqlOutbox(app).make_relay()


def test_two_outboxes_of_one_process_have_tables_of_their_own(app: App, engine: Any) -> None:
    one, two = SqlOutbox(app, engine), SqlOutbox(app, engine, table="other_outbox")
    metadata = sa.MetaData()
    one.table(metadata)
    two.table(metadata)
    metadata.create_all(engine)
    with Session(engine) as session:
        one.publish(session, Placed(n=1))
        two.publish(session, Placed(n=2))
        two.publish(session, Placed(n=3))
        session.commit()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM other_outbox")) == 2
    assert waiting(engine) == 1


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@one_server
async def test_a_broker_that_is_away_loses_nothing_keeps_the_order_and_is_told_once(
    private_redis: RedisServer, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", broker=private_redis.url)
    outbox = made_in(engine, app)
    caplog.set_level(logging.INFO, "streamtask")
    private_redis.kill()
    async with outbox.relay(batch=7):  # it begins while the broker is away
        for n in range(0, 50, 5):
            with Session(engine) as session:
                for each in range(n, n + 5):
                    outbox.publish(session, Placed(n=each))
                session.commit()
        await until(lambda: "sql_outbox.failed" in caplog.messages, 10)
        await asyncio.sleep(1)
        assert waiting(engine) == 50
        private_redis.start()
        await until(lambda: waiting(engine) < 50, 20)
        private_redis.kill()
        with Session(engine) as session:
            outbox.publish(session, Placed(n=50))
            session.commit()
        private_redis.start()
        await until(lambda: waiting(engine) == 0, 20)
        async with app:
            assert await numbers(app) == list(range(51))
    assert caplog.messages.count("sql_outbox.failed") == 1
    assert "sql_outbox.works_again" in caplog.messages


@one_server
async def test_a_stream_that_refuses_holds_up_no_other(
    redis_server: RedisServer, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", broker=redis_server.url)
    outbox = made_in(engine, app)
    client = redis_server.client()
    client.set("stream:sql-bills", "this is no stream")
    with Session(engine) as session:
        for n in range(10):
            outbox.publish(session, Billed(n=n))
            outbox.publish(session, Placed(n=n))
        session.commit()
    async with app, outbox.relay(every=0.05, batch=3):
        await until(lambda: waiting(engine) == 10, 20)
        assert await numbers(app) == list(range(10))
        assert any("stream:sql-bills" in str(getattr(line, "error", "")) for line in caplog.records)
        client.delete("stream:sql-bills")
        await until(lambda: waiting(engine) == 0, 20)
        assert await numbers(app, "sql-bills") == list(range(10))


class Unremoving(Table):
    """Rows that are given, and cannot be removed as often as it was told."""

    def __init__(self, table: Table, times: int) -> None:
        self._table, self.times = table, times

    async def hand_over(self, publish: Publish, *, limit: int, without: Collection[str]) -> int:
        async def given(rows: list[Row]) -> list[Row]:
            stored = list(await publish(rows))
            self.times -= 1
            if self.times >= 0:
                raise TransportError("the database has gone away")
            return stored

        return await self._table.hand_over(given, limit=limit, without=without)

    async def close(self) -> None:
        await self._table.close()


async def test_rows_that_cannot_be_removed_are_published_once_however_long_that_takes(
    app: App, engine: Any, outbox: SqlOutbox
) -> None:
    with Session(engine) as session:
        for n in range(3):
            outbox.publish(session, Placed(n=n))
        session.commit()
    table = Unremoving(outbox._table_for_relay(), 3)
    async with app:
        # The broker forgets before the rows are gone.
        relay = Relay(app, table, every=0.05, dedup_window=0.01)
        await relay.run(burst=True)
        assert table.times < 0
        assert await numbers(app) == [0, 1, 2]


@asynccontextmanager
async def relays(outbox: SqlOutbox, n: int) -> AsyncIterator[None]:
    if not n:
        yield
        return
    async with outbox.relay(every=0.01, batch=10), relays(outbox, n - 1):
        yield


@one_server
async def test_several_relays_publish_each_event_once_and_in_order(redis_server: RedisServer, engine: Any) -> None:
    app = App("shop", broker=redis_server.url)
    outbox = made_in(engine, app)
    with Session(engine) as session:
        for n in range(300):
            outbox.publish(session, Placed(n=n))
        session.commit()
    async with app, relays(outbox, 3):
        await until(lambda: waiting(engine) == 0, 30)
        assert await numbers(app) == list(range(300))
