"""Suspects: what is run apart from the worker, in children that are the worker's to end."""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from streamtask.broker import Run
from streamtask.transport.values import DONE, Delivery
from streamtask.worker.isolation import Isolation
from tests.processes import children_of

APP = """
from streamtask import App, Event

app = App("suspects", broker="memory://")


class Suspected(Event, stream="jobs"):
    n: int


@app.on(Suspected)
def handle(event: Suspected) -> None:
    assert event.n < 10
"""


async def test_suspects_that_come_together_run_in_children_of_one_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "suspects_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("suspects_app")
    before = set(children_of(os.getpid()))
    isolation = Isolation(module.app, children=0)
    runs = [_suspect(module, n) for n in range(4)]

    outcomes = await asyncio.gather(*(isolation.handle(run, _nobody, None) for run in runs))
    await isolation.close()

    assert outcomes == [DONE] * 4
    # One pool that another had taken the place of would never be closed.
    assert set(children_of(os.getpid())) <= before


_nobody: Any = None


def _suspect(module: Any, n: int) -> Run:
    body = module.app.broker.outgoing(module.Suspected(n=n), f"id-{n}", "trace").body
    # Twice a process has died that may have been running it.
    delivery = Delivery("jobs", "suspects", f"{n + 1}-0", "worker", [b"envelope", body], deliveries=3)
    run = module.app.broker.plan(delivery, {})
    assert isinstance(run, Run)
    assert run.alone
    return run
