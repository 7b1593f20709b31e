"""Any audio file → blocks of samples; what is none is refused in words that its sender understands."""

from __future__ import annotations

import io
import random
import resource
import wave
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from streamtask_contrib.audio.decoding import BLOCK, AudioFile, AudioRefusedError, Limits
from streamtask_contrib.events import AudioConfig

from tests.chaos.conftest import Measured
from tests.chaos.workers import LONG
from tests.contrib.audio.sounds import CODECS, RATE, encoded, film, pcm, silence, tone, wav

LIMITS = Limits(seconds=4 * 3600, decoded_bytes=1 << 32)
CONTAINER = AudioConfig()


def decoded(
    data: bytes, config: AudioConfig = CONTAINER, limits: Limits = LIMITS, *, split: bool = False, skip: int = 0
) -> tuple[np.ndarray, list[str]]:
    """All samples of a file, and the notes."""
    with AudioFile(io.BytesIO(data), config, limits, split=split) as file:
        return np.concatenate(list(file.blocks(skip=skip)), axis=1), file.notes


def memory() -> float:
    """MiB that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def pitch(samples: np.ndarray) -> float:
    """Hertz of the loudest frequency."""
    spectrum = np.abs(np.fft.rfft(samples))
    return float(spectrum.argmax() * RATE / len(samples))


@pytest.mark.parametrize("container", ["wav", *CODECS])
def test_every_container_becomes_16_khz_mono(container: str):
    data = wav(tone(2.0)) if container == "wav" else encoded(container, tone(2.0))

    samples, notes = decoded(data)

    # Codecs work in frames: they add some milliseconds at the ends.
    assert samples.shape[1] == pytest.approx(2.0 * RATE, abs=0.15 * RATE)
    assert samples.shape[0] == 1
    assert samples.dtype == np.float32
    assert pitch(samples[0]) == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)
    assert notes == []


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 6), (16_000, 8)])
def test_raw_samples_are_read_by_their_config(rate: int, channels: int):
    config = AudioConfig(encoding="pcm_s16le", sample_rate=rate, channels=channels)

    samples, _ = decoded(pcm(*[tone(2.0, rate=rate)] * channels), config)

    assert samples.shape == (1, pytest.approx(2.0 * RATE, abs=16))
    assert pitch(samples[0]) == pytest.approx(440, abs=2)


def test_two_channels_are_kept_apart_where_that_is_wanted():
    stereo = wav(tone(1.0, 300), tone(1.0, 900))

    apart, _ = decoded(stereo, split=True)
    mixed, _ = decoded(stereo)

    assert [round(pitch(channel)) for channel in apart] == [300, 900]
    assert mixed.shape[0] == 1
    assert decoded(wav(tone(1.0)), split=True)[0].shape[0] == 1


def test_it_comes_in_blocks_and_goes_on_at_any_sample():
    sound = np.random.default_rng(1).normal(0, 0.1, int(2.5 * BLOCK * RATE)).astype(np.float32)
    at = BLOCK * RATE + 77

    with AudioFile(io.BytesIO(wav(sound)), CONTAINER, LIMITS) as file:
        blocks = list(file.blocks())

    assert [block.shape[1] / RATE for block in blocks] == [BLOCK, BLOCK, BLOCK / 2]
    assert np.array_equal(decoded(wav(sound), skip=at)[0], np.concatenate(blocks, axis=1)[:, at:])


def test_what_is_behind_the_limit_is_left_out_and_that_is_said():
    samples, notes = decoded(wav(tone(5.0)), limits=Limits(seconds=2.0, decoded_bytes=1 << 30))

    assert samples.shape[1] == 2 * RATE
    assert notes == ["cut at the limit of 2 s"]


def test_a_damaged_piece_costs_itself_only():
    data = encoded("mp3", tone(20.0))
    holes = data[:20_000] + np.random.default_rng(0).bytes(3_000) + data[23_000:]

    samples, notes = decoded(holes)

    assert samples.shape[1] > 18 * RATE
    assert "damaged" in notes[0]


def test_a_recording_may_change_its_rate_and_channels_on_the_way():
    joined = encoded("mp3", tone(4.0)) + encoded("mp3", tone(4.0, 880), rate=44_100, layout="stereo")

    samples, _ = decoded(joined)

    assert samples.shape == (1, pytest.approx(8 * RATE, abs=RATE // 2))
    assert pitch(samples[0, : 3 * RATE]) == pytest.approx(440, abs=2)
    assert pitch(samples[0, -3 * RATE :]) == pytest.approx(880, abs=2)


REFUSED = {
    "nothing": (b"", "it has 0 bytes"),
    "a text": (b"dear transcriber, this is a letter\n" * 100, "no audio file"),
    "random bytes": (np.random.default_rng(0).bytes(20_000), "no audio file"),
    "one byte": (b"R", "no audio file"),
    "half a header": (wav(tone(1.0))[:20], "no audio file|no sound"),
    "a header and no sound": (wav(tone(1.0))[:44], "no sound"),
    "sixty channels": (wav(tone(1.0))[:22] + b"\x3d" + wav(tone(1.0))[23:], "61 channels"),
    "1 Hz, which would become hours": (wav(tone(1.0), rate=1), "sample rate of 1 Hz"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_audio_is_refused_with_the_reason(what: str):
    data, words = REFUSED[what]

    with pytest.raises(AudioRefusedError, match=words):
        decoded(data)


def test_a_film_without_sound_is_refused_with_what_it_holds():
    with pytest.raises(AudioRefusedError, match="no sound: it holds video"):
        decoded(film())


OPENERS = {
    "ffconcat": b"ffconcat version 1.0\nfile 'secret.wav'\n",
    "HLS": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "SDP": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n",
}


@pytest.mark.parametrize("kind", OPENERS)
def test_a_text_that_names_other_files_opens_none(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret.wav").write_bytes(wav(tone(1.0)))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(AudioRefusedError, match="no audio file"):
        decoded(OPENERS[kind])


def test_whatever_is_sent_it_is_decoded_or_refused(chance: random.Random):
    sound = {"wav": wav(tone(1.0))} | {container: encoded(container, tone(1.0)) for container in CODECS}
    for _ in range(20_000 if LONG else 400):
        data = bytearray(chance.choice(list(sound.values())))
        for _ in range(chance.choice([1, 3, 20, 200])):
            at = chance.randrange(min(len(data), chance.choice([300, 1 << 30])))
            data[at : at + chance.choice([0, 1, 1, 200])] = chance.randbytes(chance.choice([1, 1, 1, 0, 50])) or b"x"
        with suppress(AudioRefusedError):
            decoded(bytes(data), limits=Limits(seconds=60, decoded_bytes=1 << 24))


def test_what_grows_beyond_its_limit_is_refused():
    bomb = encoded("flac", silence(600))
    assert len(bomb) < 200_000

    with pytest.raises(AudioRefusedError, match="more than the 1000000 bytes"):
        decoded(bomb, limits=Limits(seconds=4 * 3600, decoded_bytes=1_000_000))


def test_three_hours_are_never_in_memory(tmp_path: Path, measured: Measured):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as written:
        written.setparams((1, 2, RATE, 3 * 3600 * RATE, "NONE", "not compressed"))
        written.writeframesraw(b"")
    with path.open("r+b") as sparse:
        sparse.truncate(sparse.seek(0, 2) + 3 * 3600 * RATE * 2)

    before, most, seconds = memory(), 0.0, 0.0
    with path.open("rb") as opened, AudioFile(opened, CONTAINER, LIMITS) as file:
        for block in file.blocks():
            seconds += block.shape[1] / RATE
            most = max(most, memory())

    measured("MiB of memory for three hours", most - before)
    assert seconds == pytest.approx(3 * 3600, abs=1)
    # Decoded they are 690 MB.
    assert most - before < 60


def test_an_error_of_the_library_is_no_error_of_the_sender():
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionError("the store is gone")
            return super().read(size)

    with pytest.raises(ConnectionError):
        AudioFile(Broken(wav(tone(1.0))), CONTAINER, LIMITS)


def test_the_version_of_pyav_is_one_that_says_what_is_damaged():
    assert issubclass(av.error.InvalidDataError, av.FFmpegError)
