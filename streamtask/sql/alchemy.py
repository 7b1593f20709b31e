"""The outbox for SQLAlchemy 2: rows in the session's own transaction, a relay on an engine, sync or async.

It writes nothing by itself: a row is an object of the session, which goes the way of the session's other objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, registry, scoped_session

from streamtask.app import App
from streamtask.errors import ConfigurationError, TransportError
from streamtask.event import Event
from streamtask.sql.outbox import TransactionalOutbox
from streamtask.sql.rows import COLUMNS, Publish, Row, make_row

_T = TypeVar("_T")

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]

#: Dialects that lock rows and pass over those that others have locked (MySQL from 8.0, MariaDB from 10.6).
_SKIPPING_LOCKED = frozenset({"postgresql", "mysql", "mariadb"})
#: Makes MySQL choose a type of 16 MiB, where it would take one of 64 KiB.
_MAX_BODY = (1 << 24) - 1


class SqlOutbox(TransactionalOutbox):
    """Events that are published if, and only if, the session that they were given to commits.

    `engine`: for the relay; a process that only publishes needs none. `table` and `schema`: how the table is called.
    """

    def __init__(
        self,
        app: App,
        engine: sa.Engine | AsyncEngine | None = None,
        *,
        table: str = "streamtask_outbox",
        schema: str | None = None,
    ) -> None:
        super().__init__(app)
        self._engine = engine
        self._made = _make_table(sa.MetaData(), table, schema)

        class OutboxRow:
            """A row as an object of a session. Its class is this outbox's own, for its table is."""

        registry().map_imperatively(OutboxRow, self._made)
        self._row = OutboxRow

    def table(self, metadata: sa.MetaData) -> sa.Table:
        """The table as a part of your metadata, for `create_all` and for Alembic."""
        return self._made.to_metadata(metadata)

    def publish(
        self,
        session: AnySession,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Publish an event when the session's transaction commits; its event id.

        `delay`: seconds from now, not from the commit. `at`: a moment, with a time zone.

        Raises:
            EventRefusedError: a consumer could not read it back; nothing was added to the session.
        """
        row = make_row(self.app, event, delay=delay, at=at, headers=headers)
        known = self._row()
        for column in COLUMNS:
            setattr(known, column, getattr(row, column))
        plain = _plain(session)
        plain.add(known)
        if not sa_event.contains(plain, "after_commit", self._committed):
            sa_event.listen(plain, "after_commit", self._committed)
        return row.event_id

    def _committed(self, _: Session) -> None:
        self.wake()

    def _table_for_relay(self) -> AlchemyTable:
        if self._engine is None:
            raise ConfigurationError("a relay needs to reach the database: SqlOutbox(app, engine)")
        return AlchemyTable(self._engine, self._made)


class AlchemyTable:
    """See `Table`."""

    def __init__(self, engine: sa.Engine | AsyncEngine, table: sa.Table) -> None:
        self._engine = engine
        self._table = table
        # One thread, for there are drivers whose connections may not change it.
        self._thread = ThreadPoolExecutor(1, "streamtask-sql-outbox") if isinstance(engine, sa.Engine) else None

    async def hand_over(self, publish: Publish, *, limit: int, without: Collection[str]) -> int:
        """See `Table.hand_over`."""
        with _trouble_told():
            async with self._connected() as run:
                rows = await run(self._take, limit, without)
                if rows:
                    done = await publish(rows)
                    await run(self._remove, done)
                return len(rows)

    async def close(self) -> None:
        """See `Table.close`."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Callable[..., Any]]:
        """Runs functions of a connection that is open as long as this lasts."""
        if isinstance(self._engine, AsyncEngine):
            async with self._engine.connect() as connection:
                yield connection.run_sync
            return
        opened = await self._in_thread(self._engine.connect)

        async def run(function: Callable[..., _T], *args: Any) -> _T:
            return await self._in_thread(function, opened, *args)

        try:
            yield run
        finally:
            await self._in_thread(opened.close)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _take(self, connection: sa.Connection, limit: int, without: Collection[str]) -> Sequence[Row]:
        columns = self._table.c
        wanted = columns.stream.not_in(sorted(without)) if without else sa.true()
        query = sa.select(self._table).where(wanted).order_by(columns.position).limit(limit)
        if connection.dialect.name not in _SKIPPING_LOCKED:
            rows = _rows(connection.execute(query))
            # SQLite makes no writer of who has read before another wrote.
            connection.rollback()
            return rows
        rows = _rows(connection.execute(query.with_for_update(skip_locked=True)))
        oldest = connection.scalar(sa.select(sa.func.min(columns.position)).where(wanted))
        if rows and oldest is not None and oldest < rows[0].position:
            # Another relay has them in hand: to go before it would change their order.
            connection.rollback()
            return ()
        return rows

    def _remove(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        positions = [row.position for row in rows]
        connection.execute(sa.delete(self._table).where(self._table.c.position.in_(positions)))
        connection.commit()


def _make_table(metadata: sa.MetaData, name: str, schema: str | None) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        # SQLite counts by itself in a column that is INTEGER and nothing else.
        sa.Column(
            "position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("event_id", sa.String(36), nullable=False, unique=True),
        sa.Column("stream", sa.String(255), nullable=False),
        sa.Column("body", sa.LargeBinary(_MAX_BODY), nullable=False),
        sa.Column("content_type", sa.String(200)),
        sa.Column("content_encoding", sa.String(200)),
        sa.Column("due_ms", sa.BigInteger()),
        schema=schema,
        # Positions are not given again, or a row that comes late would stand before those of others.
        sqlite_autoincrement=True,
    )


def _rows(found: sa.CursorResult[Any]) -> list[Row]:
    return [Row(**each) for each in found.mappings()]


def _plain(session: AnySession) -> Session:
    """The session that does the work."""
    opened = session() if isinstance(session, scoped_session | async_scoped_session) else session
    plain: Session = opened.sync_session if isinstance(opened, AsyncSession) else opened
    return plain


@contextmanager
def _trouble_told() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise TransportError(f"the database of the outbox cannot be used now: {error}") from error
