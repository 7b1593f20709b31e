"""`streamtask demo`: all of speech on this machine, at once.

It starts a Redis, the workers for audio, translation, bots and monitoring, and the API; it speaks a recording into the
API's socket, sends a bot to a meeting, shows the words and their French as they come, and leaves the page open for
whoever wants to speak. It needs no network.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from streamtask_contrib.cli.processes import Workers
from streamtask_contrib.extras import require

_RECORDINGS = Path(__file__).parent.parent / "demo"
_NEEDED = (
    "ctranslate2",
    "fastapi",
    "faster_whisper",
    "multipart",
    "psutil",
    "pydantic_settings",
    "sentencepiece",
    "uvicorn",
    "websockets",
)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page and the API; 0: any free one.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page.")
@click.option("--once", is_flag=True, help="Go faster, open no page, and end after the meeting.")
@click.option(
    "--speak",
    "recording",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=_RECORDINGS / "meeting.wav",
    help="Another recording: WAV, 16 bits.",
)
def demo(*, port: int, browser: bool, once: bool, recording: Path) -> None:
    """Watch spoken words come as text, and as French, and a bot in a meeting; then speak yourself.

    Everything runs on this machine and ends with this command.
    """
    require("speech", *_NEEDED)
    with _ended_in_order(), tempfile.TemporaryDirectory(prefix="streamtask-demo-") as folder:
        # What the server and the API have to say would stand between the words.
        logging.basicConfig(filename=f"{folder}/api.log", level=logging.INFO)
        broker = f"embedded://{folder}/redis"
        with Workers(broker, Path(folder)) as workers:
            workers.start("streamtask_contrib.audio:app")
            workers.start("streamtask_contrib.translation:app")
            bots = {"STREAMTASK_BOT_RECORDINGS": str(_RECORDINGS), "STREAMTASK_BOT_LOGS": f"{folder}/bots"}
            workers.start("streamtask_contrib.bot:app", **bots)
            workers.start("streamtask_contrib.monitoring:app")
            # Loaded while the workers load their models: together they are there sooner.
            from streamtask_contrib.cli.showing import Show  # noqa: PLC0415

            show = Show(broker=broker, port=port, is_short=once, opens_browser=browser and not once)
            asyncio.run(show.run(recording, workers))


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: by leaving what is inside, so that nothing stays behind."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
