"""The first act of the demo: a recording is spoken into the API's socket, and what comes back is shown."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import wave
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text
from websockets.asyncio.client import ClientConnection, connect

from streamtask_contrib.cli.lines import Lines, row

#: Seconds of audio in a frame.
_FRAME = 0.1
_LANGUAGE = "en"


class Clock:
    """When what was spoken."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began = time.monotonic()

    def since(self, position: float, _: object = None) -> float:
        """Seconds since this moment of the recording was spoken."""
        return time.monotonic() - self._began - position / self._speed


async def speak(recording: Path, address: str, console: Console, *, speed: float, target: str) -> None:
    """Speak a recording, so many times as fast as life, and show its words and their translation."""
    with wave.open(str(recording)) as file:
        rate, channels, seconds = file.getframerate(), file.getnchannels(), file.getnframes() / file.getframerate()
        config = {"type": "config", "sample_rate": rate, "channels": channels, "language": _LANGUAGE}
        # Where each has a channel, it is known who speaks.
        config["diarize"] = channels > 1
        async with connect(f"ws://{address}/api/audio/stream", max_size=None) as client:
            await client.send(json.dumps(config | {"translate": [target]}))
            clock = Clock(speed)
            lines = Lines(clock.since)
            sending = asyncio.create_task(_send(client, file, clock))
            try:
                await _show(client, lines, console)
            finally:
                sending.cancel()
    _sum_up(lines, seconds, console)


async def _send(client: ClientConnection, file: wave.Wave_read, clock: Clock) -> None:
    """Speak: each frame when its moment has come."""
    position = 0.0
    while pcm := file.readframes(round(_FRAME * file.getframerate())):
        await client.send(pcm)
        position += _FRAME
        await asyncio.sleep(max(0.0, -clock.since(position)))
    await client.send(json.dumps({"type": "end"}))


async def _show(client: ClientConnection, lines: Lines, console: Console) -> None:
    with Live(console=console, refresh_per_second=12, transient=True) as live:
        async for text in client:
            message = json.loads(text)
            if message["type"] == "partial":
                live.update(Text.assemble("     ", message["stable"], " ", (message["tentative"], "dim")))
            elif message["type"] == "final":
                lines.take_words(message)
                live.update("")
            elif message["type"] == "translation":
                if (line := lines.take_translation(message)) is not None:
                    live.console.print(row(line, console.width))
            elif message["type"] in ("failed", "error"):
                raise click.ClickException(message["message"])


def _sum_up(lines: Lines, seconds: float, console: Console) -> None:
    complete = lines.complete
    if not complete:
        raise click.ClickException("no words came of the recording")
    words = sum(len(line.text.split()) for line in complete)
    text = statistics.median(line.text_after for line in complete)
    translation = statistics.median(line.translation_after or 0.0 for line in complete)
    console.print(
        f"\n{seconds:.1f} s of audio, {words} words. From the end of an utterance to its text {text:.2f} s, "
        f"to its French {translation:.2f} s (median)."
    )
