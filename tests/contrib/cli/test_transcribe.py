"""`streamtask transcribe` as a program: words on standard output, one clear line where there are none, nothing left."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="needs the extra: pip install '.[audio]'")
pytest.importorskip("sentencepiece", reason="needs the extra: pip install '.[translation]'")

from tests.chaos.workers import until
from tests.command_line import Said, run, run_on_terminal, started
from tests.contrib.audio.sounds import RATE, say, silence, speaks, wav

pytestmark = [
    speaks,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not metadata.entry_points(group="streamtask.commands", name="transcribe"),
        reason="this checkout was installed before it had the command: pip install -e . again",
    ),
]

WORDS = "start the meeting three seven one"
FRENCH = "commencez la réunion"
NAME = "réunion 1.wav"


@pytest.fixture(scope="module")
def spoken() -> bytes:
    return wav([silence(0.4), say(WORDS), silence(0.8), say("next slide please"), silence(0.4)])


@pytest.fixture
def folder(tmp_path: Path, spoken: bytes) -> Path:
    """Where the command runs, with a file to transcribe and a folder for what is temporary."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / NAME).write_bytes(spoken)
    return tmp_path


def transcribe(*arguments: str, folder: Path, **variables: str) -> Said:
    return run("transcribe", *arguments, folder=folder, TMPDIR=str(folder / "temporary"), **variables)


def left(folder: Path) -> list[str]:
    """What is still there of the command, its server included: that ends by itself when its folder is gone."""
    return [path.name for path in (folder / "temporary").glob("streamtask-transcribe-*")]


def test_the_words_are_on_standard_output_and_nothing_else_is_said(folder: Path) -> None:
    said = transcribe(NAME, folder=folder)

    assert said == Said(0, f"{WORDS}\nnext slide please\n", "")
    assert left(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == [NAME, "temporary"]


def test_a_file_may_be_called_anything(folder: Path) -> None:
    name = "50% #1? *\\.wav"
    (folder / NAME).rename(folder / name)

    assert transcribe(name, folder=folder).out.startswith(WORDS)


def test_subtitles_in_another_language(folder: Path) -> None:
    said = transcribe(NAME, "--translate", "fra", "-o", "out.srt", folder=folder)

    assert said == Said(0, "", "")
    first, second = (folder / "out.srt").read_text(encoding="utf-8").split("\n\n")
    clock = r"00:00:0\d,\d{3}"
    assert re.fullmatch(rf"1\n{clock} --> {clock}\n{FRENCH} [^\n]+", first)
    assert re.fullmatch(rf"2\n{clock} --> {clock}\n[^\n]+\n", second)


def test_the_format_can_be_named(folder: Path) -> None:
    document = transcribe(NAME, "--language", "EN", "--format", "json", folder=folder).document

    assert (document["language"], document["is_complete"], document["text"]) == (
        "en",
        True,
        f"{WORDS} next slide please",
    )
    assert document["segments"][0]["start"] == pytest.approx(0.4, abs=0.3)
    assert [word["text"] for word in document["segments"][0]["words"]] == [f" {word}" for word in WORDS.split()]


def test_a_terminal_is_told_how_fast_it_went(folder: Path) -> None:
    said = run_on_terminal("transcribe", NAME, folder=folder, TMPDIR=str(folder / "temporary"))

    assert said.code == 0
    assert re.search(r"s of audio in \d+ s, \d+\.\d\d of real time", said.out)
    assert WORDS in said.out


def test_silence_has_no_words_and_a_note_says_so(folder: Path) -> None:
    (folder / "silence.wav").write_bytes(wav(silence(2.0)))

    assert transcribe("silence.wav", folder=folder) == Said(0, "", "Note: no speech was found.\n")


def test_what_is_spoken_is_not_translated(folder: Path) -> None:
    said = transcribe(NAME, "--translate", "en", folder=folder)

    assert said.out.startswith(WORDS)
    assert said.err == "Note: en is what is spoken: there is nothing to translate.\n"


def test_who_speaks_is_told_where_it_is_known(folder: Path) -> None:
    alone = transcribe(NAME, "--speakers", folder=folder)
    assert alone.out.startswith(WORDS)
    assert alone.err.startswith("Note: nobody can tell the speakers apart")

    left, right = say(WORDS), say("next slide please")
    channels = [left, silence(3.0)], [np.zeros_like(left), silence(0.8), right, silence(2.2 - len(right) / RATE)]
    (folder / "call.wav").write_bytes(wav(*channels))
    said = transcribe("call.wav", "--speakers", folder=folder)
    assert said.err == ""
    first, second = (line.partition(": ") for line in said.out.splitlines())
    assert (first[2], second[2]) == (WORDS, "next slide please")
    assert first[0] != second[0]


def test_another_broker_can_be_named(folder: Path) -> None:
    """`memory://`, for machines where no server can be started."""
    assert transcribe(NAME, "--broker", "memory://", folder=folder).out.startswith(WORDS)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nobody.wav"], 2, "'nobody.wav' does not exist"),
        (["."], 2, "is a directory"),
        (["text.wav"], 1, "text.wav: this is no audio file that can be read"),
        (["empty.wav"], 1, "empty.wav: "),
        ([NAME, "--language", "klingon"], 2, "there is no language 'klingon'"),
        ([NAME, "--translate", "klingon"], 2, "there is no language 'klingon'"),
        ([NAME, "--language", "fr"], 1, "'fr' is none that the speech model"),
        ([NAME, "--translate", "ja"], 1, "does not translate en to ja"),
        ([NAME, "--model", "text.wav"], 2, "the speech model 'text.wav' cannot be loaded"),
        ([NAME, "--translate", "fr", "--translation-model", "temporary"], 2, "temporary"),
        ([NAME, "-o", "no/folder/out.srt"], 2, "no/folder/out.srt cannot be written"),
        ([NAME, "-o", "out.doc"], 2, "--format"),
        ([NAME, "--format", "doc"], 2, "'doc' is not one of"),
        ([NAME, "--broker", "redis://127.0.0.1:1"], 1, "127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(folder: Path, arguments: list[str], code: int, told: str) -> None:
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").touch()

    said = transcribe(*arguments, folder=folder, STREAMTASK_AUDIO_IS_OFFLINE="1")

    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("Error: ")
    assert told in said.err
    assert said.err.count("\n") == 1
    assert left(folder) == []


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGINT, None), (signal.SIGTERM, None), (signal.SIGTERM, signal.SIGINT)],
    ids=["SIGINT", "SIGTERM", "SIGTERM in the background"],
)
async def test_who_interrupts_it_finds_nothing_left(
    folder: Path, number: signal.Signals, ignored: signal.Signals | None
) -> None:
    (folder / "long.wav").write_bytes(wav(np.concatenate([silence(0.4), say(WORDS)] * 150)))

    with (
        ignoring(ignored),
        started("transcribe", "long.wav", folder=folder, TMPDIR=str(folder / "temporary")) as process,
    ):
        await until(lambda: server_in(folder), within=60)
        server = server_in(folder)
        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)

    assert (process.returncode, out, err.strip()) == (1, b"", b"Aborted.")
    assert left(folder) == []
    await until(lambda: not Path(f"/proc/{server}").exists(), within=30)


@contextmanager
def ignoring(number: signal.Signals | None) -> Iterator[None]:
    """Have what is started now ignore a signal, as a shell does with what it starts in the background."""
    if number is None:
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def server_in(folder: Path) -> int | None:
    """Process id of the server that the command has started, once it is ready."""
    for ready in (folder / "temporary").glob("streamtask-transcribe-*/guard.lock"):
        if ready.read_bytes().endswith(b"ready"):
            return int(ready.with_name("server.lock").read_text())
    return None


def test_help_needs_no_model() -> None:
    code = (
        "import sys; from streamtask_contrib.cli.transcribe import transcribe; "
        "print([name for name in sys.modules if name in ('faster_whisper', 'ctranslate2', 'av')])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
