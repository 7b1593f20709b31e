"""`streamtask demo`: words on a machine without a Redis, and nothing left of it afterwards."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")
pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")
pytest.importorskip("sentencepiece", reason="the extra `translation` is not installed")

import streamtask_contrib
from click.testing import CliRunner
from streamtask_contrib import extras
from streamtask_contrib.cli.demo import demo

from tests.contrib.api.serving import measured

pytestmark = pytest.mark.timeout(180)

_PROGRAM = [sys.executable, "-c", "from streamtask_contrib.cli.demo import demo; demo()"]
_SHIPPED = Path(streamtask_contrib.__file__).parent / "demo" / "meeting.wav"
#: Seconds that the demo may take to do anything.
PATIENCE = 90.0


class Demo:
    """The command as a process, and all that it starts."""

    def __init__(self, folder: Path, *arguments: str, alone: bool = False) -> None:
        self.output = folder / "output"
        # Whatever has this in its environment is of this demo.
        self._mark = f"DEMO_OF_TEST={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        # No server on PATH: what runs is what was installed along.
        environment = os.environ | {name: value, "PATH": str(folder), "TMPDIR": str(folder), "COLUMNS": "120"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*(_without_network() if alone else []), *_PROGRAM, "--no-browser", *arguments],
                env=environment,
                cwd=folder,
                stdout=output,
                stderr=output,
            )

    def said(self) -> str:
        """All that it has said."""
        return self.output.read_text(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it says this."""
        self.until(lambda: re.search(pattern, self.said()) or self.process.poll() is not None)
        found = re.search(pattern, self.said())
        assert found, self.said()
        return found

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def alive(self) -> list[int]:
        """Every process of it that lives."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._mark in _read(path)]

    def close(self) -> None:
        """End what is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)


@functools.cache
def _without_network() -> list[str]:
    """What runs a command where no network is; nothing where that is not allowed here."""
    unshare, ip, shell = shutil.which("unshare"), shutil.which("ip"), "/bin/sh"
    if unshare is None or ip is None:
        return []
    alone = [unshare, "--net", shell, "-c", f'{ip} link set lo up && exec "$@"', shell]
    return alone if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0 else []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts demos, and ends what is left of them."""
    running: list[Demo] = []

    def start(*arguments: str, alone: bool = False) -> Demo:
        running.append(Demo(tmp_path, *arguments, alone=alone))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """The recording that ships, or one made here."""
    if _SHIPPED.exists():
        return _SHIPPED
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        pytest.skip("espeak-ng is not installed")
    made = tmp_path / "spoken.wav"
    text = "please join the meeting. <break time='1500ms'/> open the next slide. <break time='1500ms'/> thank you team."
    subprocess.run([espeak, "-m", "-v", "en-us+m8", "-s", "150", "-w", made, f"<speak>{text}</speak>"], check=True)
    return made


@pytest.fixture
def beginning(recording: Path, tmp_path: Path) -> Path:
    """Its first words: where all that counts is what comes behind it, the rest of it would only be waited for."""
    made = tmp_path / "beginning.wav"
    with wave.open(str(recording)) as whole, wave.open(str(made), "wb") as begun:
        begun.setparams(whole.getparams())
        begun.writeframes(whole.readframes(4 * whole.getframerate()))
    return made


def test_it_speaks_a_recording_sends_a_bot_to_a_meeting_and_ends(started: Callable[..., Demo], recording: Path) -> None:
    began = time.monotonic()
    running = started("--once", "--speak", str(recording), alone=True)
    running.wait_for("the meeting .*veuillez rejoindre la réunion")
    first = time.monotonic() - began
    found = running.wait_for(r"(\d+) words.*text\s+([\d.]+) s,\s+to\s+its\s+French\s+([\d.]+) s")
    for said in (
        "bot listening",
        r"Ada: hello team\s+bonjour l'équipe",
        r"Ben: hello\s+bonjour",
        "bot leaving",
        "bot left",
        r"The system: ok, 5 workers, 5 services well, nothing unusual",
    ):
        running.wait_for(said)
    assert running.process.wait(PATIENCE) == 0, running.said()
    took = time.monotonic() - began
    running.until(lambda: not running.alive())
    assert int(found[1]) > 5
    assert not list(running.output.parent.glob("streamtask-demo-*")), "its folder was left behind"
    measured(
        network=not _without_network(),
        first_words=round(first, 1),
        all=round(took, 1),
        words=found[1],
        to_text=found[2],
        to_french=found[3],
    )


def test_it_stays_until_it_is_ended_and_takes_everything_with_it(started: Callable[..., Demo], beginning: Path) -> None:
    running = started("--speak", str(beginning))
    address = running.wait_for(r"send a bot to \S+, at (http://127\.0\.0\.1:\d+/)")[1]
    answer = httpx.get(address)
    assert answer.status_code == 200
    assert "Drop a recording here" in answer.text
    assert len(running.alive()) > 8, "the demo, four supervisors, four workers"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0, running.said()
    running.until(lambda: not running.alive())


def test_it_is_ended_in_the_middle_of_a_meeting_and_the_bot_with_it(
    started: Callable[..., Demo], beginning: Path
) -> None:
    running = started("--speak", str(beginning))
    running.wait_for("bot listening")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0, running.said()
    running.until(lambda: not running.alive())
    assert not list(running.output.parent.glob("streamtask-demo-*")), "its folder was left behind"


def test_it_is_ended_while_it_still_loads(started: Callable[..., Demo], recording: Path) -> None:
    running = started("--speak", str(recording))
    running.until(lambda: len(running.alive()) > 2)
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(PATIENCE)
    running.until(lambda: not running.alive())


def test_without_the_extras_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, recording: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    result = CliRunner().invoke(demo, ["--speak", str(recording)])
    assert "pip install '.[speech]'" in str(result.exception)


@pytest.mark.parametrize("worker", ["audio", "translation", "bot", "monitoring"])
def test_what_it_starts_needs_nothing_beyond_the_extra_speech(worker: str, tmp_path: Path) -> None:
    """What the other extras bring is taken away; each worker's app is made all the same."""
    others = "'httpx', 'playwright', 'apprise'"
    code = f"import sys; sys.modules.update(dict.fromkeys([{others}])); from streamtask_contrib.{worker} import app"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
