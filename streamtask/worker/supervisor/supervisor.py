"""N places, the children that fill them or are leaving them, and the signals."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import time
from types import FrameType

from streamtask.worker.supervisor.children import Child
from streamtask.worker.supervisor.estates import Returner
from streamtask.worker.supervisor.scales import Scales
from streamtask.worker.supervisor.settings import FIRST_PAUSE, LONGEST_PAUSE, Settings

log = logging.getLogger("streamtask.supervisor")

#: Seconds that hand-backs may take at the end; what is left then is found by other workers within seconds.
LAST_HAND_BACKS = 5.0
LAST_HAND_BACKS_IN_A_HURRY = 1.5
#: A child that ends this often with exit code 1 before it was ready is given up.
ATTEMPTS = 5
#: Seconds between two looks at the memory of the children, where it is limited.
WEIGH_EVERY = 1.0

OK = 0
FAILED = 1
MISCONFIGURED = 2

#: What the watch on files writes into the pipe in which signals arrive; no signal has this number.
_FILES_CHANGED = 0


class Place:
    """One of the N: who fills it, or when it is filled again."""

    def __init__(self) -> None:
        self.child: Child | None = None
        #: Children in a row that ended before they were ready.
        self.failures = 0
        #: When the next child is started; None: not by the clock.
        self.due: float | None = None
        #: Its child has finished and needs no successor.
        self.done = False


class Supervisor:
    """N places, the children that fill them or are leaving them, and the signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = [Place() for _ in range(settings.processes)]
        self._children: list[Child] = []
        self._returner = Returner(settings.hand_back)
        self._selector = selectors.DefaultSelector()
        self._wake_up, self._woken = os.pipe()
        #: Places whose child is to be replaced, the first one's successor being on its way.
        self._rolling: list[int] = []
        #: All children are among them: somebody has asked for it.
        self._rolling_all = False
        self._scales = Scales(settings.max_memory) if settings.max_memory is not None else None
        #: When the children are weighed next.
        self._weigh_at = time.monotonic()
        self._stopping = False
        self._at_terminal = os.isatty(0)
        self._hurry = False
        self._exit_code = OK

    def run(self) -> int:
        """Run until all children have ended for good; the exit code."""
        self._listen()
        log.info("supervisor.started", extra={"processes": self._settings.processes, "supervisor_pid": os.getpid()})
        for index in range(len(self._places)):
            self._fill(index)
        if self._settings.reload is not None:
            # Few are started with it, and it needs pathlib: a seventh of all that would be imported here.
            from streamtask.worker.supervisor.watch import Watch  # noqa: PLC0415

            Watch(self._settings.reload, lambda: _write(self._woken, _FILES_CHANGED)).start()
        while not self._is_over():
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._bury_the_dead()
            self._do_what_is_due()
        self._returner.finish(LAST_HAND_BACKS_IN_A_HURRY if self._hurry else LAST_HAND_BACKS)
        log.info("supervisor.stopped", extra={"exit_code": self._exit_code})
        return self._exit_code

    def _is_over(self) -> bool:
        if self._children:
            return False
        return self._stopping or all(place.done for place in self._places)

    # ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        """Have every signal arrive as a byte in a pipe, so that it is answered between two steps and never within."""
        os.set_blocking(self._wake_up, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._selector.register(self._wake_up, selectors.EVENT_READ, self._take_signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _into_the_pipe)

    def _take_signals(self) -> None:
        for number in os.read(self._wake_up, 4_096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._drain(OK)
            elif number == signal.SIGQUIT:
                self._kill_all()
            elif number == signal.SIGHUP and self._at_terminal and not os.isatty(0):
                # Not a request: the terminal is gone.
                self._drain(OK)
            elif number == signal.SIGHUP:
                self._roll()
            elif number == _FILES_CHANGED:
                self._reload()

    def _drain(self, exit_code: int) -> None:
        """Ask all children to end; asked a second time, kill them."""
        if self._stopping:
            self._kill_all()
            return
        log.info("supervisor.draining", extra={"children": len(self._children)})
        self._stopping = True
        self._exit_code = exit_code
        for child in self._children:
            # One that was asked before takes a second time as an order to hurry.
            if not child.leaving:
                child.ask_to_end()

    def _kill_all(self) -> None:
        log.warning("supervisor.killing", extra={"children": len(self._children)})
        self._stopping = True
        self._hurry = True
        self._exit_code = self._exit_code or FAILED
        for child in self._children:
            child.kill_at = None
            child.cut_short = True
            child.kill()

    # ── children ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, index: int) -> None:
        """Start a child for a place that is empty."""
        place = self._places[index]
        place.due = None
        place.child = self._start(index)
        if place.child is None:
            self._fail(index, FAILED)

    def _start(self, index: int) -> Child | None:
        """Start a child; None where the system refuses."""
        try:
            child = Child(index, self._settings)
        except OSError as error:
            log.error("child.start_failed", extra={"place": index, "error": str(error)})  # noqa: TRY400
            return None
        self._children.append(child)
        self._selector.register(child.control, selectors.EVENT_READ, lambda: self._listen_to(child))
        log.info("child.started", extra={"place": index, "child_pid": child.pid})
        return child

    def _listen_to(self, child: Child) -> None:
        was_ready = child.ready
        if not child.read_reports():
            self._selector.unregister(child.control)
        if child.ready and not was_ready:
            self._places[child.place].failures = 0
            log.info("child.ready", extra={"place": child.place, "child_pid": child.pid, "owner": child.owner})
            if self._scales is not None and not self._scales.is_too_heavy_at_rest(child):
                child.weigh_at = time.monotonic() + self._settings.weigh_from
            if child.newcomer:
                self._hand_over(child)

    def _bury_the_dead(self) -> None:
        for child in list(self._children):
            code = child.reap()
            if code is not None:
                self._bury(child, code)

    def _bury(self, child: Child, code: int) -> None:
        """It is reaped and its group is killed: hand back what it held, and see about its place."""
        self._children.remove(child)
        if child.control in self._selector.get_map():
            self._listen_to(child)
        if child.control in self._selector.get_map():
            self._selector.unregister(child.control)
        level = logging.INFO if code == OK or child.leaving else logging.ERROR
        fields = {"place": child.place, "child_pid": child.pid, "owner": child.owner, "how": _how(code)}
        log.log(level, "child.ended", extra=fields)
        if code != OK and child.owner:
            self._returner.take(child)
        child.close()
        if self._stopping:
            if not _ended_well(child, code):
                self._exit_code = self._exit_code or FAILED
        elif child.newcomer:
            self._stop_rolling()
            log.error("supervisor.replacing_stopped", extra={"place": child.place, "how": _how(code)})
        elif self._places[child.place].child is child:
            self._vacate(child, code)

    def _vacate(self, child: Child, code: int) -> None:
        """Its child has ended without being asked to: decide what becomes of the place."""
        place = self._places[child.place]
        place.child = None
        if child.ready:
            place.failures = 0
        if code != OK:
            self._fail(child.place, code, was_ready=child.ready)
        elif self._settings.reload is None:
            place.done = True

    def _fail(self, index: int, code: int, *, was_ready: bool = False) -> None:
        """A place has lost its child, or could not be filled: when to try again, if at all."""
        place = self._places[index]
        place.failures += 0 if was_ready else 1
        hopeless = code == MISCONFIGURED or (code == FAILED and place.failures >= ATTEMPTS)
        if not hopeless:
            place.due = time.monotonic() + _pause(place.failures)
        elif self._settings.reload is not None:
            log.error("supervisor.waiting_for_change", extra={"place": index})
        else:
            log.error("child.given_up", extra={"place": index, "how": _how(code)})
            self._drain(code)

    # ── replacing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _roll(self) -> None:
        """Replace the children one by one; each goes on until its successor is ready."""
        if self._stopping or self._rolling_all:
            return
        places = [index for index, place in enumerate(self._places) if place.child is not None]
        log.info("supervisor.replacing", extra={"children": len(places)})
        self._rolling_all = True
        # Who is on its way to take over from one that is too heavy may be made of what is to be replaced.
        is_one_on_its_way = bool(self._rolling)
        self._rolling += places
        if not is_one_on_its_way:
            self._send_for_a_newcomer()

    def _stop_rolling(self) -> None:
        """Whoever still was to be replaced goes on."""
        self._rolling = []
        self._rolling_all = False
        # What stood in the way of a successor may do so for a while.
        self._weigh_at = time.monotonic() + LONGEST_PAUSE

    def _weigh(self) -> None:
        """Replace a child that has more memory than it may have; the next one when that is done."""
        now = time.monotonic()
        self._weigh_at = now + WEIGH_EVERY
        if self._scales is None or self._rolling:
            return
        for index, place in enumerate(self._places):
            child = place.child
            if child is not None and child.weigh_at <= now and self._scales.is_too_heavy(child):
                self._rolling = [index]
                self._send_for_a_newcomer()
                return

    def _send_for_a_newcomer(self) -> None:
        if not self._rolling:
            self._rolling_all = False
            return
        newcomer = self._start(self._rolling[0])
        if newcomer is None:
            self._stop_rolling()
        else:
            newcomer.newcomer = True

    def _hand_over(self, newcomer: Child) -> None:
        """The newcomer works: the one before it may go."""
        newcomer.newcomer = False
        place = self._places[newcomer.place]
        if place.child is not None:
            place.child.ask_to_end()
        place.child, place.due, place.done = newcomer, None, False
        self._rolling = self._rolling[1:]
        self._send_for_a_newcomer()

    def _reload(self) -> None:
        """Start all children anew, at once: the files they were made of have changed."""
        if self._stopping:
            return
        log.info("supervisor.reloading")
        self._stop_rolling()
        for child in self._children:
            if not child.leaving:
                child.newcomer = False
                child.ask_to_end()
        for index, place in enumerate(self._places):
            place.failures = 0
            self._fill(index)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _patience(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        moments = [child.kill_at for child in self._children if child.kill_at is not None]
        if not self._stopping:
            moments += [place.due for place in self._places if place.due is not None]
            moments += [self._weigh_at] if self._scales is not None else []
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.kill_at is not None and child.kill_at <= now:
                log.error("child.drain_timed_out", extra={"place": child.place, "child_pid": child.pid})
                child.kill_at = None
                # What a process runs that has too much memory may be what takes it, and the reason why it has to end.
                child.cut_short = self._scales is None or not self._scales.is_above(child)
                child.kill()
        if self._stopping:
            return
        for index, place in enumerate(self._places):
            if place.due is not None and place.due <= now:
                self._fill(index)
        if self._scales is not None and self._weigh_at <= now:
            self._weigh()


def _ended_well(child: Child, code: int) -> bool:
    """Whether a child that was asked to end did so: by itself, or by the signal before it had set itself up."""
    return code == OK or (code == -signal.SIGTERM and not child.ready)


def _pause(failures: int) -> float:
    """Seconds before the next start: none after a child that worked or failed once, then doubled up to the longest."""
    return 0.0 if failures <= 1 else float(min(FIRST_PAUSE * 2 ** min(failures - 2, 16), LONGEST_PAUSE))


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _into_the_pipe(number: int, frame: FrameType | None) -> None:
    """Nothing to do here: the number is in the wake-up pipe already."""


def _write(fd: int, number: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(fd, bytes([number]))
