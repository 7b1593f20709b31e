"""The public names: found at run time where type checkers are told that they are."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import streamtask

_STUB = Path(streamtask.__file__).with_suffix(".pyi")


def told() -> dict[str, str]:
    """Name -> module, as `__init__.pyi` has it."""
    imports = [node for node in ast.parse(_STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_are_told_of_every_name_and_of_no_other() -> None:
    assert sorted(told()) == streamtask.__all__
    assert set(streamtask.__all__) <= set(dir(streamtask))


@pytest.mark.parametrize(("name", "home"), told().items())
def test_a_public_name_is_the_one_of_its_module(name: str, home: str) -> None:
    assert getattr(streamtask, name) is getattr(import_module(home), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Celery'"):
        streamtask.Celery  # noqa: B018


def test_starting_a_worker_loads_nothing_heavy_in_the_process_that_becomes_the_supervisor() -> None:
    code = "import sys; from streamtask.cli import main; import streamtask.cli.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pydantic", "redis", "kombu", "rich", "msgspec", "asyncio", "prometheus_client", "http.server"}
    assert heavy & set(loaded) == set()


def test_a_worker_that_nobody_scrapes_loads_neither_prometheus_nor_a_web_server_nor_cron() -> None:
    code = """
import sys
from streamtask import App, Event
class Order(Event, stream="orders"): pass
app = App("a", broker="memory://")
@app.on(Order)
async def handle(order: Order) -> None: ...
import asyncio
async def main():
    async with app.worker(): pass
asyncio.run(main())
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"prometheus_client", "http.server", "cronsim", "kombu", "sqlalchemy"} & set(loaded) == set()


def test_a_worker_on_redis_does_not_load_redis_py_which_takes_longer_than_all_of_ours() -> None:
    names = ("worker.child", "worker.worker", "transport.redis.transport", "transport.redis.cluster_transport")
    code = f"import sys, {', '.join(f'streamtask.{name}' for name in names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "streamtask.transport.redis.connecting" in loaded
    assert "redis" not in loaded


@pytest.mark.parametrize(
    ("url", "engine"),
    [("memory://", "memory"), ("embedded://x", "embedded"), ("redis://localhost", "redis")],
)
def test_a_program_loads_the_engine_that_it_uses_and_no_other(url: str, engine: str) -> None:
    code = f"import sys; from streamtask import App; App('a', broker={url!r}).connector(); print(*sys.modules)"
    run = [sys.executable, "-c", code]
    loaded = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    others = {"memory", "embedded", "redis"} - {engine}
    assert {f"streamtask.transport.{name}" for name in others} & loaded == set()
