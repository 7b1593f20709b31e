"""`SqlOutbox` on a real PostgreSQL server: rows are locked while they are in hand, and the order stands."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from streamtask import App, Event
from streamtask.sql.rows import Row
from tests.chaos.workers import until

sa = pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine  # noqa: E402

from streamtask.sql.alchemy import SqlOutbox  # noqa: E402

_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),)
_PROGRAMS = next((folder for folder in _FOLDERS if (folder / "initdb").exists()), None)


class Placed(Event, stream="pg-orders"):
    n: int


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server's socket. PostgreSQL does not run as root: then it runs as its own user."""
    if _PROGRAMS is None:
        pytest.skip("there is no PostgreSQL here")
    folder = Path(tempfile.mkdtemp(prefix="st-pg-", dir="/tmp"))  # short, as it holds a socket
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        try:
            shutil.chown(folder, user)
        except LookupError:
            pytest.skip("PostgreSQL has no user here")

    def run(program: str, *arguments: str) -> None:
        subprocess.run([_PROGRAMS / program, *arguments], check=True, capture_output=True, user=user, cwd=folder)

    data = folder / "data"
    run("initdb", "-D", str(data), "-A", "trust", "-U", "shop", "--no-sync")
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -h '' -F", "start")
    try:
        yield folder
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["async", "sync"])
async def outbox(request: pytest.FixtureRequest, postgres: Path) -> AsyncIterator[SqlOutbox]:
    """An outbox with twenty rows of two transactions, and an engine of either kind."""
    url = f"postgresql+psycopg://shop@/postgres?host={postgres}"
    engine = sa.create_engine(url)
    async_engine = create_async_engine(url)
    outbox = SqlOutbox(App("shop", broker="memory://"), engine if request.param == "sync" else async_engine)
    metadata = sa.MetaData()
    outbox.table(metadata)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    for start in (0, 10):
        async with AsyncSession(async_engine) as session, session.begin():
            for n in range(start, start + 10):
                outbox.publish(session, Placed(n=n))
    yield outbox
    engine.dispose()
    await async_engine.dispose()


async def numbers(app: App) -> list[int]:
    found = await app.transport.read("pg-orders", after="0", count=1000, wait=0.0)
    return [app.broker.decode(delivery).payload["n"] for delivery in found]


async def test_what_another_relay_has_in_hand_and_what_comes_after_it_is_not_given(outbox: SqlOutbox) -> None:
    first, second = outbox._table_for_relay(), outbox._table_for_relay()
    taken: list[Row] = []
    let_go = asyncio.Event()

    async def hold(rows: Sequence[Row]) -> Sequence[Row]:
        taken.extend(rows)
        await let_go.wait()
        return rows

    async def take(rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    holding = asyncio.create_task(first.hand_over(hold, limit=5, without=()))
    await until(lambda: taken, 10)
    assert await second.hand_over(take, limit=5, without=()) == 0
    let_go.set()
    assert await holding == 5
    assert await second.hand_over(take, limit=50, without=()) == 15
    await first.close()
    await second.close()


async def test_two_relays_publish_all_once_and_in_order(outbox: SqlOutbox) -> None:
    app = outbox.app
    async with app, outbox.relay(every=0.01, batch=3), outbox.relay(every=0.01, batch=3):

        async def all_there() -> bool:
            return len(await numbers(app)) >= 20

        await until(all_there, 20)
        assert await numbers(app) == list(range(20))
