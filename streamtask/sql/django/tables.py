"""Rows in the transaction of a Django database, and the way to them for a relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from django.db import DatabaseError, InterfaceError, connections, router, transaction

from streamtask.app import App
from streamtask.errors import TransportError
from streamtask.event import Event
from streamtask.sql.outbox import TransactionalOutbox
from streamtask.sql.rows import COLUMNS, Publish, Row, make_row

_T = TypeVar("_T")


class DjangoOutbox(TransactionalOutbox):
    """Events that are published if, and only if, the transaction that they were given to commits."""

    def __init__(self, app: App, model: Any, *, using: str | None = None) -> None:
        """`model`: of the table. `using`: the database that relays look at; by default what the routers say."""
        super().__init__(app)
        self._model = model
        self._using = using

    def at(self, using: str | None) -> DjangoOutbox:
        """The same outbox, with relays for another database."""
        return DjangoOutbox(self.app, self._model, using=using)

    def publish(
        self,
        event: Event,
        *,
        delay: float | None = None,
        at: datetime | None = None,
        headers: Mapping[str, str] | None = None,
        priority: str | None = None,
        using: str | None = None,
    ) -> str:
        """See `publish_on_commit`."""
        row = make_row(self.app, event, delay=delay, at=at, headers=headers, priority=priority)
        alias = self._alias(using)
        values = msgspec.structs.asdict(row)
        self._model.objects.using(alias).create(**{name: values[name] for name in COLUMNS})
        transaction.on_commit(self.wake, using=alias)
        return row.event_id

    def _alias(self, using: str | None) -> str:
        return using or self._using or str(router.db_for_write(self._model))

    def _table_for_relay(self) -> DjangoTable:
        return DjangoTable(self._model, self._alias(None))


class DjangoTable:
    """See `Table`. Django's connections belong to a thread, so all is done in one of its own."""

    def __init__(self, model: Any, alias: str) -> None:
        self._model = model
        self._alias = alias
        self._thread = ThreadPoolExecutor(1, "streamtask-sql-outbox")

    async def hand_over(self, publish: Publish, *, limit: int, without: Collection[str]) -> int:
        """See `Table.hand_over`."""
        with _trouble_told():
            try:
                rows = await self._in_thread(self._take, limit, without)
                if rows:
                    await self._in_thread(self._remove, await publish(rows))
                return len(rows)
            finally:
                await self._in_thread(self._end)

    async def close(self) -> None:
        """See `Table.close`."""
        try:
            await self._in_thread(self._disconnect)
        finally:
            self._thread.shutdown(wait=False)

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    @property
    def _connection(self) -> Any:
        """The connection of the thread that asks."""
        return connections[self._alias]

    def _disconnect(self) -> None:
        self._connection.close()

    def _take(self, limit: int, without: Collection[str]) -> Sequence[Row]:
        wanted = self._model.objects.using(self._alias).exclude(stream__in=sorted(without)).order_by("position")
        connection = self._connection
        if not connection.features.has_select_for_update_skip_locked:
            return _rows(wanted[:limit])
        # Until `_end`: the rows are locked as long as they are in hand.
        connection.set_autocommit(False)
        rows = _rows(wanted.select_for_update(skip_locked=True)[:limit])
        oldest = wanted.values_list("position", flat=True).first()
        if rows and oldest is not None and oldest < rows[0].position:
            # Another relay has them in hand: to go before it would change their order.
            return ()
        return rows

    def _remove(self, rows: Sequence[Row]) -> None:
        self._model.objects.using(self._alias).filter(position__in=[row.position for row in rows]).delete()
        if not self._connection.get_autocommit():
            self._connection.commit()

    def _end(self) -> None:
        """Leave the transaction, whatever has become of it; a connection that is broken is made anew next time."""
        connection = self._connection
        try:
            if connection.connection is not None and not connection.get_autocommit():
                connection.rollback()
                connection.set_autocommit(True)
        except (DatabaseError, InterfaceError):
            connection.close()
        connection.close_if_unusable_or_obsolete()


def _rows(found: Any) -> list[Row]:
    # Some drivers give a memoryview.
    return [Row(**{**each, "body": bytes(each["body"])}) for each in found.values("position", *COLUMNS)]


@contextmanager
def _trouble_told() -> Iterator[None]:
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise TransportError(f"the database of the outbox cannot be used now: {error}") from error
