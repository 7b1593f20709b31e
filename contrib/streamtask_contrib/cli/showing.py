"""What `streamtask demo` shows: it serves the API, talks to it like any other client, and prints what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

import click
import uvicorn
from rich.console import Console

from streamtask import App, Inspector, StreamtaskError
from streamtask_contrib.api import create_app
from streamtask_contrib.bot.asking import ask_to_stop
from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.cli.attending import ask, attend
from streamtask_contrib.cli.following import statuses
from streamtask_contrib.cli.processes import Workers
from streamtask_contrib.cli.speaking import speak

#: Seconds that the workers may take to load, and bots to leave when all ends.
_PATIENCE = 60.0
_FAREWELL = 10.0
#: Seconds between two looks.
_LOOK = 0.05
#: How much faster than life `--once` is.
_SHORT_SPEED = 4.0
_TARGET = "fr"
_SPEECH = frozenset({"audio-pipeline", "translation", "transcripts"})
_MEETINGS = frozenset({"bot-orchestrator", "monitoring"})
#: Two channels, of which each is a participant.
_MEETING = "file:meeting-stereo.wav"


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
        """Serve, speak, send a bot to a meeting, and stay until Ctrl-C or SIGTERM."""
        speed = _SHORT_SPEED if self._is_short else 1.0
        with _ended_by_signals():
            async with self._serving(workers) as (address, events):
                self._console.print(f"Ready after {time.monotonic() - self._began:.1f} s. Speaking {recording.name}:\n")
                await speak(recording, address, self._console, speed=speed, target=_TARGET)
                await self._wait_for(workers, lambda: _is_ready(events, _MEETINGS))
                self._announce(address)
                await attend(f"{_MEETING}?speed={speed:g}", address, self._console, target=_TARGET)
                await self._tell_health(address)
                if not self._is_short:
                    self._invite(address)
                    await asyncio.Event().wait()

    # ── serving ───────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _serving(self, workers: Workers) -> AsyncIterator[tuple[str, App]]:
        """The API on loopback, and workers that are ready; gives the address, "127.0.0.1:8000", and the API's app."""
        api = create_app(broker=self._broker)
        events: App = api.state.service.events
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", self._port))
            server = _Server(uvicorn.Config(api, log_config=None, ws_ping_interval=None, timeout_graceful_shutdown=1))
            running = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                with self._console.status("Loading the models …"):
                    await self._wait_for(workers, lambda: _is_ready(events, _SPEECH, server))
                yield f"127.0.0.1:{listening.getsockname()[1]}", events
            finally:
                if server.started:
                    await _call_back(events)
                server.should_exit = True
                await running

    async def _wait_for(self, workers: Workers, is_ready: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not await is_ready():
            if (told := workers.ended()) is not None:
                raise click.ClickException(told)
            if time.monotonic() > deadline:
                raise click.ClickException(f"the workers have not been ready within {_PATIENCE:g} s")
            await asyncio.sleep(_LOOK)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────

    def _announce(self, address: str) -> None:
        self._console.print("\nNow a bot in a meeting of two; each participant has a channel of the recording.")
        if not self._is_short:
            self._console.print(f"It is on the page, too: [bold]http://{address}/[/bold]")
            self._open(address)
        self._console.print()

    async def _tell_health(self, address: str) -> None:
        health = await ask(address, "/api/system/health")
        unwell = [one["service"] for one in health["services"] if one["status"] == "degraded"]
        services = f"not well: {', '.join(unwell)}" if unwell else f"{len(health['services'])} services well"
        unusual = ", ".join(one["subject"] for one in health["anomalies"]) or "nothing unusual"
        self._console.print(
            f"\nThe system: {health['status']}, {len(health['workers'])} workers, {services}, {unusual}, "
            f"the broker answers in {health['redis_ping_ms']:.1f} ms."
        )
        for problem in health["problems"]:
            self._console.print(f"  {problem}", markup=False)

    def _invite(self, address: str) -> None:
        self._console.print(
            f"\nNow you: drop a file, speak, or send a bot to {_MEETING}, at [bold]http://{address}/[/bold] "
            "(Ctrl-C ends everything)"
        )

    def _open(self, address: str) -> None:
        if self._opens_browser and self._console.is_terminal:
            webbrowser.open(f"http://{address}/?meeting={quote(_MEETING)}")


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


async def _is_ready(events: App, groups: frozenset[str], server: uvicorn.Server | None = None) -> bool:
    """Whether a worker of each of these groups lives, and the server, if one is named, serves."""
    if server is not None and not server.started:
        return False
    return {group for worker in await Inspector(events).workers() for group in worker.groups} >= groups


async def _call_back(events: App) -> None:
    """Have every bot leave, while somebody is there to see to it: none may be left behind."""
    with contextlib.suppress(TimeoutError, StreamtaskError):
        async with asyncio.timeout(_FAREWELL):
            asked = [await ask_to_stop(events, bot.bot_id, "requested") for bot in await Bots(events).living()]
            for bot in asked:
                async for _ in statuses(events, bot):
                    pass
