"""Where in a recording does somebody speak? Run it with `python examples/voice_activity.py [RECORDING.wav]`.

An event says that a recording has come in, a worker listens to it, and a second event says where it heard speech.
Everything runs on this machine and offline: the broker is a Redis server that streamtask starts and stops by itself,
and the model that hears speech (Silero VAD) comes with faster-whisper: `pip install -e '.[audio]'`.
"""

import argparse
import asyncio
import logging
import sys
import wave
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from pydantic import BaseModel

from streamtask import App, Event

try:
    from faster_whisper.audio import decode_audio
    from faster_whisper.vad import VadOptions, get_speech_timestamps
except ModuleNotFoundError:
    sys.exit("faster-whisper is missing: pip install -e '.[audio]'")

RATE = 16_000  # samples a second, as the model wants them

app = App("audio-pipeline")


# Events. The first one carries no sound, only where it is: events stay small.
class AudioChunkReceived(Event, stream="audio-ingest", key="chunk_id"):
    session_id: str
    chunk_id: str
    source_type: str
    storage_uri: str


class Speech(BaseModel):
    start: float  # seconds from the beginning of the recording
    end: float


class SpeechDetected(Event, stream="audio-results", key="chunk_id"):
    session_id: str
    chunk_id: str
    speech: list[Speech]


# The worker's part. A plain function runs in a thread, so that the event loop stays free while the model works.
# What it returns is published together with the acknowledgement of the chunk: both happen, or neither.
@app.on(AudioChunkReceived, timeout=60)
def detect_speech(chunk: AudioChunkReceived) -> SpeechDetected:
    path = url2pathname(urlsplit(chunk.storage_uri).path)
    samples = decode_audio(path, RATE)  # whatever its rate and channels were: 16 kHz, one channel
    options = VadOptions(min_silence_duration_ms=300, speech_pad_ms=0)
    found = get_speech_timestamps(samples, options)
    speech = [Speech(start=part["start"] / RATE, end=part["end"] / RATE) for part in found]
    return SpeechDetected(session_id=chunk.session_id, chunk_id=chunk.chunk_id, speech=speech)


# The part of whoever has a recording: publish the event, then read the results until the one for it is there.
async def find_speech(storage_uri: str) -> None:
    session_id = uuid4().hex
    async with app, app.worker(concurrency=2), asyncio.timeout(60):
        chunk = AudioChunkReceived(
            session_id=session_id, chunk_id=uuid4().hex, source_type="upload", storage_uri=storage_uri
        )
        await app.publish(chunk)
        # "0": from the beginning of the stream, so that a fast answer is not missed.
        async with aclosing(app.read("audio-results", after="0")) as results:
            async for envelope in results:
                if envelope.payload.get("session_id") == session_id:
                    show(SpeechDetected.model_validate(envelope.payload))
                    break


def show(detected: SpeechDetected) -> None:
    for part in detected.speech:
        print(f"{part.start:.2f} s - {part.end:.2f} s")
    if not detected.speech:
        print("no speech")


def main() -> None:
    parser = argparse.ArgumentParser(description="Where in a recording does somebody speak?")
    parser.add_argument("recording", nargs="?", type=Path, default=Path(__file__).with_name("meeting.wav"))
    recording = parser.parse_args().recording
    logging.basicConfig(level=logging.ERROR)  # not the note that no broker URL was given: here that is meant so
    try:
        wave.open(str(recording)).close()
    except OSError as error:
        sys.exit(f"{recording}: {error.strerror}")
    except EOFError:
        sys.exit(f"{recording}: no WAV file: it ends too early")
    except wave.Error as error:
        sys.exit(f"{recording}: no WAV file that can be read: {error}")
    try:
        asyncio.run(find_speech(recording.resolve().as_uri()))  # file:///home/...
    except TimeoutError:
        sys.exit(f"{recording}: no answer from the worker within a minute")


if __name__ == "__main__":
    main()
