"""FFmpeg opens what holds sound, and nothing that has it open something else."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs the extra: pip install '.[audio]'")

import av
from streamtask_contrib.api import media
from streamtask_contrib.containers import CONTAINERS_ONLY

CONCAT = b"ffconcat version 1.0\nfile 'secret.wav'\n"


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of this machine, in the folder that the process works in."""
    monkeypatch.chdir(tmp_path)
    with wave.open(str(tmp_path / "secret.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(32_000))


@pytest.mark.usefixtures("secret")
def test_ffmpeg_reads_a_file_that_a_text_names_unless_it_is_told_not_to():
    with av.open(io.BytesIO(CONCAT), mode="r") as container:
        assert next(container.decode(audio=0)).samples > 0

    with pytest.raises(av.FFmpegError):
        av.open(io.BytesIO(CONCAT), mode="r", options=CONTAINERS_ONLY)


@pytest.mark.usefixtures("secret")
def test_an_upload_is_looked_at_with_that():
    with pytest.raises(media.NotAudioError):
        media.probe(io.BytesIO(CONCAT))
