"""Sound for the tests of the audio worker: espeak-ng's voices, and files of it in every container."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import wave

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="needs the extra: pip install '.[audio]'")

import av

RATE = 16_000

#: For tests that need a voice.
speaks = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@functools.cache
def say(text: str, *, voice: str = "en-us+m3", speed: int = 160) -> np.ndarray:
    """An utterance, float32 at 16 kHz, of words that the model that ships knows."""
    spoken = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text],  # noqa: S607 - where the system has it
        capture_output=True,
        check=True,
    ).stdout
    body = spoken.index(b"data") + 8
    samples = np.frombuffer(spoken[body : body + (len(spoken) - body) // 2 * 2], np.int16)
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = 22_050
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    parts = [each.to_ndarray() for each in (*resampler.resample(frame), *resampler.resample(None))]
    whole = np.concatenate(parts, axis=1)[0].astype(np.float32) / 32768
    heard = np.flatnonzero(np.abs(whole) > 0.001)
    # Without the silence that espeak-ng puts behind it.
    return whole[max(0, heard[0] - 160) : heard[-1] + 320]


def turn(text: str) -> np.ndarray:
    """An utterance as it is given to the model: with some silence around it."""
    return np.concatenate([silence(0.2), say(text), silence(0.2)])


def silence(seconds: float) -> np.ndarray:
    """Nothing at all."""
    return np.zeros(int(seconds * RATE), np.float32)


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    """A sine, for tests that need sound and no words."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pcm(*channels: np.ndarray) -> bytes:
    """Raw samples, 16 bits, interleaved."""
    return (np.stack(channels, axis=1) * 32767).astype("<i2").tobytes()


def wav(*channels: np.ndarray | list[np.ndarray], rate: int = RATE) -> bytes:
    """A WAV file. A channel may be given in pieces."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(len(channels))
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(pcm(*(np.concatenate(each) if isinstance(each, list) else each for each in channels)))
    return file.getvalue()


#: Container → (codec, its sample rate).
CODECS = {"mp3": ("libmp3lame", RATE), "ogg": ("libopus", 48_000), "webm": ("libopus", 48_000), "flac": ("flac", RATE)}


def encoded(container: str, samples: np.ndarray, *, rate: int = 0, layout: str = "mono") -> bytes:
    """A file in a container, at the codec's own sample rate or another one."""
    codec, usual = CODECS[container]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as written:
        stream = written.add_stream(codec, rate=rate or usual, layout=layout)
        stream.bit_rate = 96_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16).reshape(1, -1), "s16", "mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate or usual)
        pieces = av.AudioFifo()
        for each in (*resampler.resample(frame), *resampler.resample(None)):
            pieces.write(each)
        while (piece := pieces.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            written.mux(stream.encode(piece))
        written.mux(stream.encode(None))
    return file.getvalue()


def film() -> bytes:
    """Moving pictures without sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as written:
        stream = written.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            written.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        written.mux(stream.encode(None))
    return file.getvalue()
