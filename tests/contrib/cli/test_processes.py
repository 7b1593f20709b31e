"""Workers of a command: none is left behind, whenever the command is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamtask_contrib.cli.processes import Workers


@pytest.fixture
def ends_by_sigterm() -> Iterator[None]:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_that_comes_while_a_worker_is_started_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends_by_sigterm: None
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        # It runs, and nobody knows of it yet.
        os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt), Workers("redis://127.0.0.1:1", tmp_path) as workers:
        workers.start("nothing:app")

    assert [process.returncode for process in started] == [-signal.SIGTERM]
