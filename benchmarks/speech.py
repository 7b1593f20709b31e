"""How much a worker costs over the model: `python -m benchmarks.speech` prints seconds of audio for each second.

faster-whisper in one process, both of its ways, and streamtask with one and with two worker processes, over the same
files, in turn, round after round: what else the machine does hits all of them. One thread a process for each. The files
are short and hold one turn each, as live audio does; the model is the one that ships. With a larger one, what surrounds
it weighs less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from functools import partial
from pathlib import Path
from typing import NamedTuple

from faster_whisper import BatchedInferencePipeline, WhisperModel
from streamtask_contrib.audio import AudioSettings, router
from streamtask_contrib.events import AudioChunkReceived
from streamtask_contrib.models import SPEECH

from benchmarks import meters
from benchmarks.servers import private_server
from streamtask import App, BlobStores


class Cost(NamedTuple):
    """What one run took, loading left out."""

    seconds: float
    processor_seconds: float


#: Where a worker finds the files.
_FOLDER = "BENCHMARK_SPEECH_FOLDER"
#: Seconds that a system may take for one round.
_PATIENCE = 600.0
#: What the others are compared with: the faster one of faster-whisper's two ways.
_BASE = "faster-whisper, batched pipeline"
_SENTENCES = (
    "start the meeting three seven one",
    "next slide please thank you team",
    "save the message and send the next",
    "please join the meeting today",
    "zero nine four two five eight",
    "hello team please open the next slide now",
)

app = App("speech", blobs=BlobStores(folder=os.environ.get(_FOLDER), max_bytes=1 << 30))
app.include(router(AudioSettings(threads=1)))


def _make(folder: Path, count: int) -> float:
    """Write the files; their seconds."""
    seconds = 0.0
    for number in range(count):
        path = folder / f"{number}.wav"
        voice = f"en-us+m{number % 7 + 1}"
        text = _SENTENCES[number % len(_SENTENCES)]
        subprocess.run(["espeak-ng", "-v", voice, "-w", str(path), text], check=True)  # noqa: S607 - where it is
        with wave.open(str(path)) as sound:
            seconds += sound.getnframes() / sound.getframerate()
    return seconds


def _plain(folder: Path, *, is_batched: bool) -> None:
    """In a process of its own: what a program without streamtask does. Prints what it took."""
    model = WhisperModel(str(SPEECH), device="cpu", compute_type="int8", cpu_threads=1)
    batched = BatchedInferencePipeline(model)
    files = sorted(map(str, folder.glob("*.wav")))
    began = processor = 0.0
    for number, path in enumerate([files[0], *files]):
        if number == 1:
            # The first one has warmed it.
            began, processor = time.monotonic(), time.process_time()
        if is_batched:
            segments, _ = batched.transcribe(path, word_timestamps=True)
        else:
            segments, _ = model.transcribe(path, word_timestamps=True, vad_filter=True)
        list(segments)
    print(time.monotonic() - began, time.process_time() - processor)


def _run_plain(folder: Path, way: str) -> Cost:
    command = [sys.executable, "-m", "benchmarks.speech", "--plain", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    return Cost(*map(float, done.stdout.split()))


def _run_streamtask(folder: Path, processes: int) -> Cost:
    """From the first publish to the last result, with workers that are ready before."""
    log = folder / "log"
    code = "from streamtask.cli import main; main()"
    with private_server() as server, log.open("w") as written:
        options = ["-A", "benchmarks.speech:app", "--broker", server.url, "--processes", str(processes)]
        worker = subprocess.Popen(
            [sys.executable, "-c", code, "worker", *options, "--log-format", "json"],
            env=os.environ | {_FOLDER: str(folder)},
            stderr=written,
        )
        try:
            _wait_until_ready(worker, log, processes)
            before = meters.cpu_seconds(meters.tree(worker.pid))
            seconds = asyncio.run(_drain(server.url, sorted(folder.glob("*.wav"))))
            return Cost(seconds, meters.cpu_seconds(meters.tree(worker.pid)) - before)
        finally:
            worker.terminate()
            worker.wait()


def _wait_until_ready(worker: subprocess.Popen[bytes], log: Path, processes: int) -> None:
    while log.read_text().count('"child.ready"') < processes:
        if worker.poll() is not None:
            raise RuntimeError(f"the worker has ended before it was ready:\n{log.read_text()}")
        time.sleep(0.05)


async def _drain(url: str, files: list[Path]) -> float:
    chunks = [
        AudioChunkReceived(session_id=path.stem, chunk_id=path.stem, storage_uri=f"file://{path}") for path in files
    ]
    async with App("speech", broker=url) as publisher, asyncio.timeout(_PATIENCE):
        began = time.monotonic()
        await publisher.publish_many(chunks)
        left = len(files)
        async for envelope in publisher.read("audio-results", after="0"):
            if envelope.event_type != "TranscriptionCompleted":
                raise RuntimeError(f"a file failed: {envelope.payload}")
            left -= 1
            if not left:
                break
        return time.monotonic() - began


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        _plain(given.folder, is_batched=given.plain == "batched")
        return
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng makes the sound, and is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = _make(folder, given.files)
        print(f"{given.files} files, {audio:.0f} s of audio, {len(os.sched_getaffinity(0))} processors")
        systems = {
            _BASE: partial(_run_plain, folder, "batched"),
            "faster-whisper, transcribe()": partial(_run_plain, folder, "plain"),
            "streamtask, 1 process": partial(_run_streamtask, folder, 1),
            "streamtask, 2 processes": partial(_run_streamtask, folder, 2),
        }
        costs: dict[str, list[Cost]] = {system: [] for system in systems}
        for number in range(given.rounds):
            for system, run in systems.items():
                costs[system].append(run())
                print(f"round {number + 1}  {_line(audio, costs[system][-1], costs[_BASE][-1])}  {system}", flush=True)
    print(f"medians of {given.rounds}")
    for system, runs in costs.items():
        typical = Cost(*(statistics.median(figures) for figures in zip(*runs, strict=True)))
        base = Cost(*(statistics.median(figures) for figures in zip(*costs[_BASE], strict=True)))
        print(f"         {_line(audio, typical, base)}  {system}")


def _line(audio: float, cost: Cost, base: Cost) -> str:
    rate, ratio = audio / cost.seconds, base.seconds / cost.seconds
    return f"{rate:6.1f} s/s {ratio:5.2f} ×   {cost.processor_seconds / audio * 1000:6.1f} ms of processor a second"


if __name__ == "__main__":
    main()
