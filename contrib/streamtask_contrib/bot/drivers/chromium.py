"""One Chromium of a bot's own, which ends with the bot, whatever ends the bot.

Playwright starts browsers in a process group of their own, so that a bot that is killed leaves its browser behind. This
one is started here, in the bot's group: who kills the group kills it. Only what watches over its crashes is in a group
of its own, and ends by itself, at once, when it has nothing to watch over. Everything that is written, sockets
included, is below one folder, and whoever removes that folder has removed it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import wave
from collections import deque
from pathlib import Path

import psutil

from streamtask_contrib.bot.drivers.port import RATE, JoinError

#: Names that browsers of this kind have on PATH.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Seconds from its start to its first word, and from its end to that of the last of its processes, on a busy machine.
_STARTS_WITHIN = 30.0
_ENDS_WITHIN = 5.0
#: The line that says where it listens.
_LISTENS = "DevTools listening on "
#: Lines of its log that are kept, to say why it did not start.
_KEPT = 20

_ARGUMENTS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    # Nothing on its own account.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=MediaRouter,OptimizationHints,Translate",
    "--metrics-recording-only",
    "--password-store=basic",
    # A meeting goes on where nobody looks, and is heard without being touched first.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--autoplay-policy=no-user-gesture-required",
    # No sound comes out of this machine. The clock of what is heard is then the machine's own.
    "--mute-audio",
    # Pages that insist on a microphone and a camera get a silent and a black one, never this machine's.
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    # Containers have little shared memory, and no graphics.
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
)


def find_chromium(wanted: str) -> str:
    """The program: the one that is wanted, or the first on PATH.

    Raises:
        JoinError: there is none.
    """
    for name in (wanted,) if wanted else _NAMES:
        if found := shutil.which(name):
            return found
    missing = f"there is no {wanted}" if wanted else "there is no Chromium on PATH"
    raise JoinError(
        "no_browser",
        f"{missing}: install it (Debian: apt install chromium), or name it with STREAMTASK_BOT_CHROMIUM",
    )


class Chromium:
    """The processes of one browser."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._log: deque[str] = deque(maxlen=_KEPT)
        self._endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> str:
        """Start it, and say where it is spoken to.

        Raises:
            JoinError: it did not start.
        """
        await asyncio.to_thread(_make_devices, self._folder)
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *self._arguments(),
            cwd=self._folder,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_STARTS_WITHIN):
                return await asyncio.shield(self._endpoint)
        except (TimeoutError, ChildProcessError):
            said = " | ".join(self._log) or "it said nothing"
            raise JoinError("browser_not_started", f"{self._program} did not start: {said}", may_retry=True) from None

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> None:
        """End it with all of its processes, and remove what it wrote."""
        if self._process is None:
            return
        await asyncio.to_thread(_end, self._process.pid, str(self._folder))
        await self._process.wait()
        if self._reading is not None:
            await self._reading
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _arguments(self) -> list[str]:
        arguments = [
            *_ARGUMENTS,
            f"--user-data-dir={self._folder / 'profile'}",
            f"--use-file-for-fake-audio-capture={self._folder / _MICROPHONE}",
            f"--use-file-for-fake-video-capture={self._folder / _CAMERA}",
        ]
        if os.geteuid() == 0:
            # Chromium has no sandbox for root, and does not start where it is asked for one.
            arguments.append("--no-sandbox")
        return [*arguments, "about:blank"]

    def _environment(self) -> dict[str, str]:
        # No token, and no address of a broker, is passed on. TMPDIR is relative: Chromium makes a socket there, and a
        # socket's path may have 107 bytes.
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {"HOME": str(self._folder), "TMPDIR": "."}

    async def _read(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: S101, PT018 - it was just started
        async for line in self._process.stderr:
            text = line.decode(errors="replace").strip()
            if text.startswith(_LISTENS) and not self._endpoint.done():
                self._endpoint.set_result(text.removeprefix(_LISTENS))
            elif text:
                self._log.append(text)
        if not self._endpoint.done():
            self._endpoint.set_exception(ChildProcessError("it ended"))


def _end(pid: int, folder: str) -> None:
    """End them all. Nothing of theirs is kept, so there is nothing that they would have to put in order."""
    family = [each for each in psutil.process_iter() if each.pid == pid or folder in _arguments_of(each)]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += psutil.Process(pid).children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + _ENDS_WITHIN
    while any(map(_is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _arguments_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _is_alive(process: psutil.Process) -> bool:
    # Where nobody collects orphans, in containers, they stay as zombies: they have ended all the same.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ── what the meeting hears and sees of the bot ────────────────────────────────────────────────────────────────────────

_MICROPHONE = "silence.wav"
_CAMERA = "black.y4m"
_WIDTH, _HEIGHT = 160, 90


def _make_devices(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / _MICROPHONE), "wb") as silence:
        silence.setparams((1, 2, RATE, 0, "NONE", ""))
        silence.writeframes(bytes(2 * RATE))
    pixels = _WIDTH * _HEIGHT
    black = bytes([16]) * pixels + bytes([128]) * (pixels // 2)
    header = f"YUV4MPEG2 W{_WIDTH} H{_HEIGHT} F5:1 Ip A1:1 C420\n".encode()
    (folder / _CAMERA).write_bytes(header + b"FRAME\n" + black)
