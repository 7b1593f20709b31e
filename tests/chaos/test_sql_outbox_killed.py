"""Writers and relays of outbox tables that are killed: what was committed is published, once, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from streamtask import failpoints
from tests.chaos.conftest import Measured, one_server
from tests.chaos.workers import LONG, emitted, until
from tests.servers import RedisServer

#: Writes so many orders, each with its event in one transaction; every fifth is rolled back.
ALCHEMY = {
    "shop": """
import sqlalchemy as sa
from sqlalchemy import orm
from streamtask import App, Event
from streamtask.sql.alchemy import SqlOutbox

app = App("shop")
engine = sa.create_engine("sqlite:///shop.db", connect_args={"timeout": 30})
outbox = SqlOutbox(app, engine)
metadata = sa.MetaData()
outbox.table(metadata)
orders = sa.Table("orders", metadata, sa.Column("n", sa.Integer, primary_key=True))


class Placed(Event, stream="orders"):
    n: int
""",
    "write": """
import os, sys
from shop import Placed, engine, metadata, orders, orm, outbox

if sys.argv[1] == "1":
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    metadata.create_all(engine)
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    with orm.Session(engine) as session:
        order = n if n % 5 else -os.getpid() * 100_000 - n
        session.execute(orders.insert().values(n=order))
        outbox.publish(session, Placed(n=order))
        session.commit() if n % 5 else session.rollback()
""",
}
DJANGO = {
    "settings": """
SECRET_KEY = "none"
INSTALLED_APPS = ["streamtask.sql.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db", "OPTIONS": {"timeout": 30}}}
STREAMTASK_APP = "events:app"
""",
    "events": """
from streamtask import App, Event

app = App("shop")


class Placed(Event, stream="orders"):
    n: int
""",
    "manage": """
import os, sys
from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
""",
    "write": """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from events import Placed
from streamtask.sql.django import publish_on_commit

if sys.argv[1] == "1":
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("CREATE TABLE orders (n INTEGER PRIMARY KEY)")
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    with transaction.atomic():
        order = n if n % 5 else -os.getpid() * 100_000 - n
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES (%s)", [order])
        publish_on_commit(Placed(n=order))
        if n % 5 == 0:
            transaction.set_rollback(True)
""",
}
#: How the relay of each is started.
RELAYS = {
    "sqlalchemy": (ALCHEMY, ["-c", "from streamtask.cli import main; main()", "outbox", "run", "-A", "shop:app"]),
    "django": (DJANGO, ["manage.py", "streamtask_outbox"]),
}
#: Orders, kills of relays, kills of writers.
ORDERS, KILLS, WRITERS = (5000, 30, 15) if LONG else (300, 1, 1)


#: The last order that was committed.
LAST = "SELECT coalesce(max(n), 0) FROM orders"


class Shop:
    """The folder of a program, its database and its processes."""

    def __init__(self, folder: Path, url: str, sources: dict[str, str], relay: Sequence[str]) -> None:
        for name, text in sources.items():
            (folder / f"{name}.py").write_text(text)
        self.folder = folder
        self.left = folder / "left"
        self.left.touch()
        self._relay = [*relay, "--every", "0.02", "--batch", "20"]
        self._environment = os.environ | {"STREAMTASK_BROKER": url, "PYTHONDONTWRITEBYTECODE": "1"}
        self._running: list[subprocess.Popen[bytes]] = []

    def python(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self._environment | variables, stdout=log, stderr=log
            )
        self._running.append(started)
        return started

    def relay(self) -> subprocess.Popen[bytes]:
        """A relay that is killed between publishing and removing rows as often as `left` has bytes."""
        return self.python(*self._relay, **{failpoints.VARIABLE: f"outbox_published:kill:{self.left}"})

    def ask(self, query: str) -> list[int]:
        """The first column of what is found; nothing as long as there is no such table."""
        with closing(sqlite3.connect(self.folder / "shop.db", timeout=30)) as connection:
            try:
                return [n for (n,) in connection.execute(query)]
            except sqlite3.OperationalError:
                return []

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        print((self.folder / "log").read_text()[-4000:])  # noqa: T201 - shown where a test fails


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 40)


@one_server
@pytest.mark.timeout(900 if LONG else 120)
@pytest.mark.parametrize("library", RELAYS)
async def test_what_a_killed_writer_has_committed_is_published_once_by_relays_that_are_killed(
    redis_server: RedisServer, tmp_path: Path, library: str, chance: random.Random, measured: Measured
) -> None:
    pytest.importorskip(library)
    shop = Shop(tmp_path, redis_server.url, *RELAYS[library])
    try:
        shop.left.write_bytes(b"." * KILLS)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write(shop, chance))
            for _ in range(KILLS):
                assert await ended(shop.relay()) == -signal.SIGKILL
            last = shop.relay()
        await until(lambda: shop.ask("SELECT count(*) FROM streamtask_outbox") == [0], 40)
        last.send_signal(signal.SIGTERM)
        assert await ended(last) == 0
    finally:
        shop.close()
    committed = shop.ask("SELECT n FROM orders")
    measured("orders that were committed", len(committed))
    measured("writers that were killed", writing.result())
    measured("relays that were killed between publishing and removing", KILLS - shop.left.stat().st_size)
    measured("seconds", time.monotonic() - began)
    found = Counter(event["n"] for event in await emitted(redis_server.url, "orders"))
    assert found == dict.fromkeys(committed, 1)
    assert len(committed) == ORDERS - ORDERS // 5
    assert shop.left.stat().st_size == 0


async def write(shop: Shop, chance: random.Random) -> int:
    """Write all orders, by writers of which some are killed; how many were."""
    kills = 0
    while True:
        last = max(shop.ask(LAST), default=0)
        if last + 1 >= ORDERS:
            return kills
        writer = shop.python("write.py", str(last + 1), str(ORDERS))
        if kills < WRITERS:
            # Somewhere in the middle of its work, whenever that begins.
            goal = last + chance.randrange(10, ORDERS // (WRITERS + 1))
            await until(lambda goal=goal: max(shop.ask(LAST), default=0) >= goal, 40)
            writer.kill()
            kills += 1
        await ended(writer)
