"""The processes of bots at this place: started, recognised, watched, signalled and tidied up behind.

Nothing is kept in memory that another orchestrator at the same place could not find out by itself: the names of files
follow from bot and attempt, and a process carries both in its environment, whoever has started it. Every method looks
at the kernel's account and may block for some milliseconds: call it in a thread. No method decides anything.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from streamtask_contrib.bot.decisions import Sight
from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.bot.states import Bot, ProcessIdentity

#: What is started for a bot. -P: it imports nothing from its folder, where a meeting may have put a file.
PROGRAM = (sys.executable, "-P", "-m", "streamtask_contrib.bot.process")
#: What a process is told beside its settings. A broker's URL may hold a password: an environment is its owner's alone.
BOT_ID, ATTEMPT = "STREAMTASK_BOT_ID", "STREAMTASK_BOT_ATTEMPT"
BROKER, FOLDER = "STREAMTASK_BOT_BROKER", "STREAMTASK_BOT_FOLDER"
#: Where audio is kept in files, which a bot has to find, too.
_BLOBS = "STREAMTASK_BLOBS_FOLDER"
_SCRATCH, _LOG = ".scratch", ".log"
#: Two starts of one process number are further apart than this, in seconds.
_MOMENT = 1.5


@dataclass(frozen=True, slots=True)
class _Seen:
    """One process, as it was when all were looked at."""

    process: psutil.Process
    #: The numbers of its parent, of its group and of its session: each that of a process, which may be gone.
    origins: frozenset[int]
    command: list[str]
    #: Bot, attempt and broker, of its environment.
    mark: tuple[str, str, str]


class Processes:
    """What orchestrators of one broker have started at this place, and may start."""

    def __init__(self, settings: BotSettings, broker: str, *, program: Sequence[str] = PROGRAM) -> None:
        """`broker`: its URL for processes of this machine."""
        self._logs = settings.logs.absolute()
        self._broker = broker
        self._program = list(program)
        self._environment = _environment(settings)
        self._started: set[int] = set()
        self.here = place()

    # ── starting ──────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, bot_id: str, attempt: int) -> ProcessIdentity:
        """Start the process of a bot's attempt, in a session of its own. Raises `OSError`."""
        _make_private(self._logs)
        scratch, written = self._scratch(bot_id, attempt), self._log(bot_id, attempt)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        # Anew, so that what another broker's bot of this name writes into stays its own.
        written.unlink(missing_ok=True)
        opened = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        mark = {BOT_ID: bot_id, ATTEMPT: str(attempt), BROKER: self._broker, FOLDER: str(scratch)}
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                self._program,
                cwd=scratch,
                env={**self._environment, **mark},
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=opened,
                start_new_session=True,
            )
        finally:
            os.close(opened)
        self._started.add(process.pid)
        # `reap` waits for it, or whoever inherits it: Popen is not to warn that it was left alone.
        process.returncode = 0
        return self._identity(psutil.Process(process.pid), bot_id, attempt)

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────

    def reap(self) -> None:
        """Let go of our own children that have died, whoever looks after their bots by now."""
        for pid in list(self._started):
            try:
                died = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                died = True
            if died:
                self._started.discard(pid)

    def look(self, bots: Iterable[Bot]) -> dict[str, tuple[Sight, ProcessIdentity | None]]:
        """What can be seen of bots whose process is or was here, or is not written down; and which one it is."""
        everything: list[_Seen] | None = None
        found: dict[str, tuple[Sight, ProcessIdentity | None]] = {}
        for bot in bots:
            if bot.process is not None and is_alive(bot.process):
                found[bot.bot_id] = ("alive", bot.process)
                continue
            # Seldom: one was lost just now, or its orchestrator died before it had written down which it is.
            everything = list(_everything()) if everything is None else everything
            members = self._members(bot, everything)
            main = self._main(members)
            if bot.process is None and main is not None:
                found[bot.bot_id] = ("alive", self._identity(main, bot.bot_id, bot.attempt))
            else:
                found[bot.bot_id] = ("remains" if members else "gone", bot.process)
        return found

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────────

    def signal(self, bot: Bot, number: signal.Signals) -> None:
        """Send a signal to a bot's process; SIGKILL to all that it has started, too, wherever it has moved.

        The others get no SIGTERM: without its browser a bot cannot leave as a person does.
        """
        if number != signal.SIGKILL:
            if bot.process is not None and is_alive(bot.process):
                with suppress(ProcessLookupError):
                    os.kill(bot.process.pid, number)
            return
        # Looked for first: what has moved away with nothing of the environment is known by its parent alone.
        strays = self._members(bot, list(_everything()))
        if bot.process is not None and is_alive(bot.process):
            with suppress(ProcessLookupError):
                os.killpg(bot.process.pid, signal.SIGKILL)
        for seen in strays:
            # It knows by itself whether the number is another's by now.
            with suppress(psutil.NoSuchProcess):
                seen.process.kill()

    def tidy(self, bot: Bot) -> None:
        """Remove the folders of a bot that has ended here. Its logs stay for a while."""
        for attempt in range(1, bot.attempt + 1):
            shutil.rmtree(self._scratch(bot.bot_id, attempt), ignore_errors=True)

    def sweep(self, living: Collection[str], *, older_than: float) -> None:
        """Remove logs and folders that nobody has touched for so many seconds, of bots that do not live."""
        with suppress(FileNotFoundError):
            for path in self._logs.iterdir():
                bot_id = path.name.removesuffix(path.suffix).rpartition(".")[0]
                is_ours = path.suffix in {_LOG, _SCRATCH} and bot_id and bot_id not in living
                if is_ours and path.stat().st_mtime < time.time() - older_than:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    # ── within ────────────────────────────────────────────────────────────────────────────────────────────────

    def _scratch(self, bot_id: str, attempt: int) -> Path:
        return self._logs / f"{bot_id}.{attempt}{_SCRATCH}"

    def _log(self, bot_id: str, attempt: int) -> Path:
        return self._logs / f"{bot_id}.{attempt}{_LOG}"

    def _identity(self, process: psutil.Process, bot_id: str, attempt: int) -> ProcessIdentity:
        return ProcessIdentity(
            place=self.here, pid=process.pid, started=_started(process), log=str(self._log(bot_id, attempt))
        )

    def _main(self, members: Sequence[_Seen]) -> psutil.Process | None:
        """The one of them that was started for the bot. Between fork and exec, a child of it looks the same."""
        alike = {seen.process.pid: seen for seen in members if seen.command[1:] == self._program[1:]}
        return next(
            (seen.process for seen in alike.values() if not seen.origins & alike.keys() - {seen.process.pid}), None
        )

    def _members(self, bot: Bot, everything: Sequence[_Seen]) -> list[_Seen]:
        """Every living process of the bot's attempt: by its environment, or as one that came from such a one."""
        mark = (bot.bot_id, str(bot.attempt), self._broker)
        members = {seen.process.pid: seen for seen in everything if seen.mark == mark}
        roots = set(members)
        # Its group lasts longer than itself, and while it does, no other process gets its number.
        if bot.process is not None and (is_alive(bot.process) or not _is_taken(bot.process.pid)):
            roots.add(bot.process.pid)
        while True:
            found = {seen.process.pid: seen for seen in everything if seen.origins & roots}
            if found.keys() <= members.keys():
                return list(members.values())
            members |= found
            roots |= members.keys()


def place() -> str:
    """The machine, this start of it, and the container: where a process number means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot, container = str(round(psutil.boot_time())), ""
    return f"{socket.gethostname()}/{boot}/{container}"


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether a process of this place lives. A zombie is dead, and another process with its number is another."""
    try:
        process = psutil.Process(identity.pid)
        return abs(_started(process) - identity.started) < _MOMENT and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_taken(pid: int) -> bool:
    """Whether a living process has this number."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _started(process: psutil.Process) -> float:
    # Of the kernel's account only the difference does not move when the time of day is set.
    return round(process.create_time() - psutil.boot_time(), 2)


def _everything() -> Iterator[_Seen]:
    """Every process of ours that lives. Of others' there is nothing to be read, and none is a bot."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            origins = frozenset({os.getpgid(process.pid), os.getsid(process.pid), process.ppid()})
            mark = (environment.get(BOT_ID, ""), environment.get(ATTEMPT, ""), environment.get(BROKER, ""))
            yield _Seen(process, origins, process.cmdline(), mark)


def _environment(settings: BotSettings) -> Mapping[str, str]:
    """The environment of a process of ours, with these settings in place of those that it has.

    A bot works in a folder of its own: what is relative to ours is told as it is from there.
    """
    prefix = str(settings.model_config.get("env_prefix", ""))
    values = {name: _absolute(value) for name, value in settings}
    told = settings.model_copy(update=values).model_dump(mode="json", exclude_none=True)
    variables = {
        f"{prefix}{name}".upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in told.items()
        if value != ""
    }
    names = {f"{prefix}{name}".upper() for name in BotSettings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in names}
    if kept.get(_BLOBS):
        variables[_BLOBS] = str(Path(kept[_BLOBS]).absolute())
    return kept | variables


def _absolute(value: object) -> object:
    return value.absolute() if isinstance(value, Path) else value


def _make_private(folder: Path) -> None:
    """Make a folder that is ours alone. Raises `PermissionError` where somebody else was faster, as in /tmp."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} has to be a folder of this user that nobody else may read")
