"""Recordings as meetings: who speaks, at what pace, and that an address leads nowhere else."""

from __future__ import annotations

import asyncio
import json
import time
import wave
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot import drivers
from streamtask_contrib.bot.drivers.file import FileDriver, make_driver
from streamtask_contrib.bot.drivers.port import (
    Admitted,
    Ended,
    Happening,
    Heard,
    Invitation,
    Joined,
    JoinError,
    Left,
    WaitingRoom,
)

from tests.contrib.pcm import RATE, quiet, tone

LEFT, RIGHT = tone(0.5) + quiet(0.55), quiet(0.5) + tone(0.55)


def write(path: Path, *channels: bytes, rate: int = RATE, width: int = 2) -> None:
    frames = b"".join(b"".join(each[at : at + 2] for each in channels) for at in range(0, len(channels[0]), 2))
    with wave.open(str(path), "wb") as file:
        file.setparams((len(channels), width, rate, 0, "NONE", ""))
        file.writeframes(frames)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "recordings"
    made.mkdir()
    write(made / "two.wav", LEFT, RIGHT)
    return made


def driver(folder: Path | None, address: str, **metadata: str) -> FileDriver:
    invitation = Invitation(meeting_url=address, display_name="bot", metadata=metadata, folder=Path("/nowhere"))
    return FileDriver(invitation, folder=folder)


async def played(made: FileDriver) -> list[Happening]:
    """All that happens, to the end."""
    await made.join()
    try:
        return [happening async for happening in made.happenings()]
    finally:
        await made.close()


def sound(happenings: list[Happening], participant: str) -> bytes:
    return b"".join(each.pcm for each in happenings if isinstance(each, Heard) and each.participant == participant)


async def test_each_channel_is_a_participant(folder: Path) -> None:
    happenings = await played(driver(folder, "file:two.wav?speed=100", names="Anna, Ben"))
    assert happenings[:3] == [Admitted(), Joined("0", "Anna"), Joined("1", "Ben")]
    assert happenings[-3:] == [Left("0"), Left("1"), Ended("meeting_ended")]
    assert sound(happenings, "0") == LEFT
    assert sound(happenings, "1") == RIGHT
    moments = [each.at for each in happenings if isinstance(each, Heard) and each.participant == "0"]
    # Of the recording, however fast it is played.
    assert [at - moments[0] for at in moments] == pytest.approx([number / 10 for number in range(len(moments))])


async def test_it_takes_as_long_as_the_recording(folder: Path) -> None:
    began = time.monotonic()
    await played(driver(folder, "recording:two.wav?speed=2"))
    assert time.monotonic() - began > 0.5


async def test_names_are_those_of_the_lines_beside_it(folder: Path) -> None:
    lines = [{"speaker": name, "text": "hello", "start": 0} for name in ("Ada", "Ben", "Ada")]
    (folder / "two.json").write_text(json.dumps(lines))
    write(folder / "two-stereo.wav", LEFT, RIGHT)
    for name in ("two.wav", "two-stereo.wav"):
        happenings = await played(driver(folder, f"file:{name}?speed=100"))
        assert happenings[1:3] == [Joined("0", "Ada"), Joined("1", "Ben")]


@pytest.mark.parametrize("beside", ["", "no json", '{"speaker": "Ada"}', "[1]"])
async def test_who_has_no_name_has_a_number(folder: Path, beside: str) -> None:
    (folder / "two.json").write_text(beside)
    assert (await played(driver(folder, "file:two.wav?speed=100")))[1] == Joined("0", "Speaker 1")
    happenings = await played(driver(folder, "file:two.wav?speed=100", names="Anna"))
    assert happenings[1:3] == [Joined("0", "Anna"), Joined("1", "Speaker 2")]


async def test_a_lobby_comes_first(folder: Path) -> None:
    happenings = await played(driver(folder, "file:two.wav?speed=100&lobby=0.1"))
    assert happenings[:2] == [WaitingRoom(), Admitted()]


@pytest.mark.parametrize("options", ["lobby=60", "hold=60&speed=100", "speed=1"])
async def test_it_can_be_left_at_any_time(folder: Path, options: str) -> None:
    made = driver(folder, f"file:two.wav?{options}")
    leaving = asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(made.leave()))
    began = time.monotonic()
    happenings = await played(made)
    leaving.cancel()
    assert happenings[-1] == Ended("left")
    assert time.monotonic() - began < 5


async def test_who_comes_late_hears_the_rest(folder: Path) -> None:
    begins = quote((datetime.now(UTC) - timedelta(seconds=0.5)).isoformat())
    happenings = await played(driver(folder, f"file:two.wav?begins={begins}"))
    assert 0 < len(sound(happenings, "0")) < len(LEFT) * 0.6
    assert LEFT.endswith(sound(happenings, "0"))
    assert happenings[-1] == Ended("meeting_ended")


async def test_who_is_early_waits_for_the_others(folder: Path) -> None:
    begins = datetime.now(UTC) + timedelta(seconds=0.6)
    made = driver(folder, f"file:two.wav?begins={quote(begins.isoformat())}")
    await made.join()
    happenings = made.happenings()
    assert await anext(happenings) == Admitted()
    assert await anext(happenings) == Joined("0", "Speaker 1")
    assert datetime.now(UTC) >= begins
    heard = sound([happening async for happening in happenings], "0")
    assert LEFT.endswith(heard)
    assert len(heard) > len(LEFT) * 0.8
    await made.close()


async def test_a_file_that_was_cut_off_is_played_as_far_as_it_goes(folder: Path) -> None:
    whole = (folder / "two.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:-1001])
    happenings = await played(driver(folder, "file:cut.wav?speed=100"))
    assert LEFT.startswith(sound(happenings, "0"))
    assert len(sound(happenings, "0")) > len(LEFT) * 0.9


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:../outside.wav", "no_such_meeting"),
        ("file:%2e%2e/outside.wav", "no_such_meeting"),
        ("file:/etc/passwd", "no_such_meeting"),
        ("file:link.wav", "no_such_meeting"),
        ("file:missing.wav", "no_such_meeting"),
        ("file:.", "no_such_meeting"),
        ("file:text.wav", "no_such_meeting"),
        ("file:fast.wav", "wrong_recording"),
        ("file:", "wrong_address"),
        ("file://host/two.wav", "wrong_address"),
        ("https://meet.example/two.wav", "wrong_address"),
        ("file:two.wav?speed=0", "wrong_address"),
        ("file:two.wav?speed=nan", "wrong_address"),
        ("file:two.wav?volume=11", "wrong_address"),
        ("file:two.wav?begins=2026-01-01T00:00:00", "wrong_address"),
    ],
)
async def test_an_address_leads_nowhere_else(folder: Path, address: str, reason: str) -> None:
    write(folder.parent / "outside.wav", LEFT)
    (folder / "link.wav").symlink_to(folder.parent / "outside.wav")
    (folder / "text.wav").write_text("no sound")
    write(folder / "fast.wav", LEFT, rate=44_100)
    made = driver(folder, address)
    with pytest.raises(JoinError) as refused:
        await made.join()
    assert refused.value.reason == reason
    assert not refused.value.may_retry
    await made.close()


async def test_another_form_is_refused_with_what_to_do(folder: Path) -> None:
    write(folder / "fast.wav", LEFT, rate=44_100)
    with pytest.raises(JoinError, match="ffmpeg -i fast"):
        await driver(folder, "file:fast.wav").join()


async def test_the_folder_is_that_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invitation = Invitation(meeting_url="file:two.wav?speed=100", display_name="bot", folder=folder)
    monkeypatch.delenv("STREAMTASK_BOT_RECORDINGS", raising=False)
    with pytest.raises(JoinError, match="STREAMTASK_BOT_RECORDINGS"):
        await make_driver(invitation).join()
    monkeypatch.setenv("STREAMTASK_BOT_RECORDINGS", str(folder))
    assert len(await played(make_driver(invitation))) > 3


# ── by name ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_driver_is_found_by_its_name() -> None:
    assert drivers.find("file") is make_driver


def test_an_unknown_driver_is_told_with_those_that_there_are() -> None:
    with pytest.raises(JoinError, match=r"'pigeon'.*browser, file") as refused:
        drivers.find("pigeon")
    assert refused.value.reason == "unknown_driver"
