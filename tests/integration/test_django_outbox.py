"""`publish_on_commit` in a Django project of its own: with its transaction, at once, for the database that is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("django")

PROJECT = """
import asyncio, json, sys

import django
from django.conf import settings
from streamtask import App, Event

app = App("shop", broker="memory://")


class Placed(Event, stream="orders"):
    n: int


def sqlite(name):
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name}


settings.configure(
    INSTALLED_APPS=["streamtask.sql.django"],
    DATABASES={"default": sqlite("default.db"), "other": sqlite("other.db")},
    STREAMTASK_APP="project:app",
)
sys.modules["project"] = sys.modules["__main__"]
django.setup()

from django.apps import apps
from django.core.management import call_command
from django.db import connections, transaction
from streamtask.sql.django import outbox, publish_on_commit

for alias in connections:
    call_command("migrate", database=alias, verbosity=0)
# What is in the models and in no migration: nothing.
call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def in_transaction(n, *, using=None, rolled_back=False):
    with transaction.atomic(using=using):
        publish_on_commit(Placed(n=n), using=using)
        transaction.set_rollback(rolled_back, using=using)
    connections.close_all()


async def published():
    found = await app.transport.read("orders", after="0", count=100, wait=0.0)
    return [app.broker.decode(delivery).payload["n"] for delivery in found]


async def has(n):
    async with asyncio.timeout(20):
        while n not in await published():
            await asyncio.sleep(0.01)


async def main():
    # It does not look again by itself.
    async with app, outbox().relay(every=60):
        await asyncio.sleep(0.2)
        await asyncio.to_thread(in_transaction, 1, rolled_back=True)
        await asyncio.to_thread(in_transaction, 2)
        await has(2)
        await asyncio.to_thread(publish_on_commit, Placed(n=3))  # without a transaction
        await has(3)
        told = {"committed": await published()}
    await asyncio.to_thread(in_transaction, 4, using="other")
    await asyncio.to_thread(in_transaction, 5)
    async with app:
        await outbox().at("other").make_relay().run(burst=True)
        told["with the other database"] = await published()
    return told

told = asyncio.run(main())
connections.close_all()
del settings.STREAMTASK_APP, apps.get_app_config("streamtask_outbox").outbox
try:
    publish_on_commit(Placed(n=1))
except Exception as error:
    told["without the setting"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the project's program has found."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "main.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "-W", "error", "main.py"], cwd=folder, capture_output=True, text=True, timeout=50, check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_committed_is_published_at_once_and_what_is_rolled_back_is_not(told: dict[str, Any]) -> None:
    assert told["committed"] == [2, 3]


def test_a_relay_looks_at_the_database_that_is_named(told: dict[str, Any]) -> None:
    assert told["with the other database"] == [2, 3, 4]


def test_a_project_without_the_setting_is_told_what_is_missing(told: dict[str, Any]) -> None:
    assert told["without the setting"].startswith("ConfigurationError: the setting STREAMTASK_APP is missing")
