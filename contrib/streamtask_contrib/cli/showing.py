"""What `streamtask demo` shows: it serves the API, speaks into it like any other client, and prints what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import statistics
import time
import wave
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvicorn
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from websockets.asyncio.client import ClientConnection, connect

from streamtask import App, Inspector
from streamtask_contrib.api import create_app
from streamtask_contrib.cli.processes import Workers

#: Seconds that the workers may take to load.
_PATIENCE = 60.0
#: Seconds of audio in a frame, and how much faster than life `--once` speaks.
_FRAME = 0.1
_SHORT_SPEED = 4.0
_LANGUAGE, _TARGET = "en", "fr"
_GROUPS = frozenset({"audio-pipeline", "translation", "transcripts"})
#: Characters of the columns: the time, the delays, and what words and their translation get at least.
_TIME, _DELAYS, _NARROWEST = 7, 16, 20


@dataclass(slots=True, kw_only=True)
class Line:
    """One utterance. Positions are seconds of the recording; delays are counted from the end of the speech."""

    start: float
    end: float
    text: str
    speaker: str
    text_after: float
    translation: str = ""
    translation_after: float | None = None


class Heard:
    """What has come of the recording."""

    def __init__(self, *, speed: float) -> None:
        self._speed = speed
        self._began = time.monotonic()
        self.lines: dict[int, Line] = {}

    def since(self, position: float) -> float:
        """Seconds since this moment of the recording was spoken."""
        return time.monotonic() - self._began - position / self._speed

    def take_words(self, message: dict[str, Any]) -> None:
        """Take a final."""
        segments = message["segments"]
        if segments:
            end = segments[-1]["end"]
            self.lines[message["sequence"]] = Line(
                start=segments[0]["start"],
                end=end,
                text=message["text"].strip(),
                speaker=message["speaker_map"]["speakers"].get(segments[0]["speaker"], ""),
                text_after=self.since(end),
            )

    def take_translation(self, message: dict[str, Any]) -> Line | None:
        """Take a translation; the line that is complete by it."""
        line = self.lines.get(message["sequence"])
        if line is not None and not message["is_partial"]:
            line.translation, line.translation_after = message["text"].strip(), self.since(line.end)
            return line
        return None


class Show:
    """One demo."""

    def __init__(self, *, broker: str, port: int, is_short: bool, opens_browser: bool) -> None:
        self._broker = broker
        self._port = port
        self._is_short = is_short
        self._opens_browser = opens_browser
        self._console = Console()
        self._began = time.monotonic()

    async def run(self, recording: Path, workers: Workers) -> None:
        """Serve, speak, and stay until Ctrl-C or SIGTERM."""
        with _ended_by_signals():
            async with self._serving(workers) as address:
                await self._speak(recording, address)
                if not self._is_short:
                    self._invite(address)
                    await asyncio.Event().wait()

    # ── serving ───────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _serving(self, workers: Workers) -> AsyncIterator[str]:
        """The API on loopback, and workers that are ready; gives the address, "127.0.0.1:8000"."""
        api = create_app(broker=self._broker)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", self._port))
            server = _Server(uvicorn.Config(api, log_config=None, ws_ping_interval=None, timeout_graceful_shutdown=1))
            running = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                with self._console.status("Loading the models …"):
                    await self._wait_for(workers, api.state.service.events, server)
                yield f"127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                await running

    async def _wait_for(self, workers: Workers, events: App, server: uvicorn.Server) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not server.started or not await _all_ready(events):
            if (told := workers.ended()) is not None:
                raise click.ClickException(told)
            if time.monotonic() > deadline:
                raise click.ClickException(f"the workers have not been ready within {_PATIENCE:g} s")
            await asyncio.sleep(0.05)

    # ── speaking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _speak(self, recording: Path, address: str) -> None:
        speed = _SHORT_SPEED if self._is_short else 1.0
        with wave.open(str(recording)) as file:
            rate, channels, seconds = file.getframerate(), file.getnchannels(), file.getnframes() / file.getframerate()
            self._console.print(f"Ready after {time.monotonic() - self._began:.1f} s. Speaking {recording.name}:\n")
            config = {"type": "config", "sample_rate": rate, "channels": channels, "language": _LANGUAGE}
            # Where each has a channel, it is known who speaks.
            config["diarize"] = channels > 1
            async with connect(f"ws://{address}/api/audio/stream", max_size=None) as client:
                await client.send(json.dumps(config | {"translate": [_TARGET]}))
                heard = Heard(speed=speed)
                sending = asyncio.create_task(_send(client, file, heard))
                try:
                    await self._show(client, heard)
                finally:
                    sending.cancel()
        self._sum_up(heard, seconds)

    async def _show(self, client: ClientConnection, heard: Heard) -> None:
        with Live(console=self._console, refresh_per_second=12, transient=True) as live:
            async for text in client:
                message = json.loads(text)
                if message["type"] == "partial":
                    live.update(Text.assemble("     ", message["stable"], " ", (message["tentative"], "dim")))
                elif message["type"] == "final":
                    heard.take_words(message)
                    live.update("")
                elif message["type"] == "translation":
                    if (line := heard.take_translation(message)) is not None:
                        live.console.print(_row(line, self._console.width))
                elif message["type"] in ("failed", "error"):
                    raise click.ClickException(message["message"])

    def _sum_up(self, heard: Heard, seconds: float) -> None:
        lines = [line for line in heard.lines.values() if line.translation_after is not None]
        if not lines:
            raise click.ClickException("no words came of the recording")
        words = sum(len(line.text.split()) for line in lines)
        text = statistics.median(line.text_after for line in lines)
        translation = statistics.median(line.translation_after or 0.0 for line in lines)
        self._console.print(
            f"\n{seconds:.1f} s of audio, {words} words. From the end of an utterance to its text {text:.2f} s, "
            f"to its French {translation:.2f} s (median)."
        )

    def _invite(self, address: str) -> None:
        page = f"http://{address}/"
        self._console.print(f"\nNow you: drop a file or speak at [bold]{page}[/bold] (Ctrl-C ends everything)")
        if self._opens_browser and self._console.is_terminal:
            webbrowser.open(page)


class _Server(uvicorn.Server):
    """Leaves the signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end what is inside, in order, and are no error."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel if task else loop.stop)
    with contextlib.suppress(asyncio.CancelledError):
        yield


async def _all_ready(events: App) -> bool:
    return {group for worker in await Inspector(events).workers() for group in worker.groups} >= _GROUPS


async def _send(client: ClientConnection, file: wave.Wave_read, heard: Heard) -> None:
    """Speak: each frame when its moment has come."""
    position = 0.0
    while pcm := file.readframes(round(_FRAME * file.getframerate())):
        await client.send(pcm)
        position += _FRAME
        await asyncio.sleep(max(0.0, -heard.since(position)))
    await client.send(json.dumps({"type": "end"}))


def _row(line: Line, width: int) -> Table:
    """When it was said, the words, the French, and how long after the end of the speech each was there."""
    row = Table.grid(padding=(0, 2))
    text = max(_NARROWEST, (width - _TIME - _DELAYS - 6) // 2)
    row.add_column(width=_TIME, justify="right", style="dim")
    row.add_column(width=text)
    row.add_column(width=text, style="cyan")
    row.add_column(width=_DELAYS, style="dim", no_wrap=True)
    minutes, seconds = divmod(line.start, 60)
    who = f"{line.speaker}: " if line.speaker else ""
    delays = f"+{line.text_after:.2f} s +{line.translation_after or 0.0:.2f} s"
    row.add_row(f"{minutes:.0f}:{seconds:04.1f}", Text(who + line.text), Text(line.translation), delays)
    return row
