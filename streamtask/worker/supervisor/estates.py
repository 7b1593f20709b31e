"""What dead children held → back to their groups."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from streamtask.worker.supervisor.children import Child
from streamtask.worker.supervisor.installed import installed
from streamtask.worker.supervisor.settings import FIRST_PAUSE, LONGEST_PAUSE

log = logging.getLogger("streamtask.supervisor")

HandBack = Callable[[str, str, list[tuple[str, str]], bytes], int]


class Estate:
    """What a dead child left."""

    def __init__(self, child: Child) -> None:
        self.owner = child.owner
        self.broker = child.broker
        self.subscriptions = child.subscriptions
        self.started = b"" if child.cut_short else child.started()


class Returner:
    """A thread that hands estates back and does not give up: a server that is down holds up no signal."""

    def __init__(self, hand_back: str) -> None:
        self._name = hand_back
        self._changed = threading.Condition()
        self._estates: list[Estate] = []
        self._news = False
        self._thread: threading.Thread | None = None

    def take(self, child: Child) -> None:
        """Hand back what the child held, as soon as possible. It has been reaped."""
        estate = Estate(child)
        with self._changed:
            self._estates.append(estate)
            self._news = True
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hand-back", daemon=True)
            self._thread.start()

    def finish(self, timeout: float) -> None:
        """Wait until all is handed back, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._estates, timeout)
            for estate in self._estates:
                log.warning("hand_back.left", extra={"owner": estate.owner})

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._estates)
                waiting, self._news = list(self._estates), False
            left = [estate for estate in waiting if not self._hand_back(estate)]
            with self._changed:
                self._estates = left + self._estates[len(waiting) :]
                self._changed.notify_all()
                pause = min(2 * pause, LONGEST_PAUSE) if left else FIRST_PAUSE
                if left:
                    # The next death ends the pause: it may concern another server.
                    self._changed.wait_for(lambda: self._news, pause / 2)

    def _hand_back(self, estate: Estate) -> bool:
        began = time.monotonic()
        module, _, function = self._name.partition(":")
        try:
            # The only way in for streamtask, taken when somebody has died: until then we weigh next to nothing.
            hand_back: HandBack = getattr(installed(module), function)
            entries = hand_back(estate.broker, estate.owner, estate.subscriptions, estate.started)
        # A duty loop: whatever is wrong with the server or the installation, it is said, and tried again.
        except Exception as error:  # noqa: BLE001
            log.warning("hand_back.failed", extra={"owner": estate.owner, "error": f"{type(error).__name__}: {error}"})
            return False
        took = round(1000 * (time.monotonic() - began))
        log.info("hand_back.done", extra={"owner": estate.owner, "entries": entries, "took_ms": took})
        return True
