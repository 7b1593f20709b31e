"""The bridge: messages of one Celery queue → events of an app's tasks, until it is told to stop.

A message is acked at its source after its event is stored, never before. The event has the id of the call and is stored
once for it, so that a message that comes again, because the bridge was killed in between, changes nothing. What cannot
become an event is put aside at the source, where Celery can still run it. All of it blocks: it is a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from streamtask import failpoints
from streamtask.app import App
from streamtask.bridge.messages import Expired, Refused, convert, tasks_of
from streamtask.bridge.sources import WAIT, Source, Taken, aside
from streamtask.errors import EventRefusedError, TransportError
from streamtask.transport.values import Outgoing
from streamtask.worker.outage import Outage

log = logging.getLogger(__name__)

#: Messages in hand at once, and events in one round trip.
_MOST = 100
#: Seconds within which a call that comes again is not stored again.
DEDUP_WINDOW = 86400.0
#: Seconds between two tries while a broker is away.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0


class Bridge:
    """Takes from one queue. `stop` may come from a signal handler."""

    def __init__(
        self, app: App, open_source: Callable[[], Source], queue: str, *, dedup_window: float = DEDUP_WINDOW
    ) -> None:
        self._app = app
        self._open = open_source
        self._queue = queue
        self._window = dedup_window
        self._tasks = tasks_of(app)
        self._outage = Outage("bridge", app.metrics)
        self._stop = threading.Event()
        self._delay = _FIRST_DELAY
        #: What became of the messages: "published", "refused", "expired".
        self.counts: Counter[str] = Counter()

    def stop(self) -> None:
        """Say that `run` is to return, after the messages that it has in hand."""
        self._stop.set()

    def run(self, *, burst: bool = False) -> None:
        """Carry over what comes, until `stop`; with `burst`, until the queue is empty."""
        source: Source | None = None
        is_connected = False
        with asyncio.Runner() as runner:
            try:
                while not self._stop.is_set():
                    try:
                        if not is_connected:
                            runner.run(self._app.__aenter__())
                            is_connected = True
                        source = source or self._open()
                        taken = source.take(_MOST, wait=0.0 if burst else WAIT)
                        self._carry(runner, source, taken)
                    except TransportError as error:
                        # What was in hand comes again, from a source that is opened anew.
                        self._wait(source, error)
                        source = None
                        continue
                    self._outage.over()
                    self._delay = _FIRST_DELAY
                    if burst and not taken:
                        return
            finally:
                if source is not None:
                    source.close()
                if is_connected:
                    runner.run(self._app.__aexit__())

    def _wait(self, source: Source | None, error: TransportError) -> None:
        self._outage.failed(error)
        if source is not None:
            source.close()
        self._stop.wait(self._delay)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _carry(self, runner: asyncio.Runner, source: Source, taken: Sequence[Taken]) -> None:
        """Publish what can be, then ack it; put aside what cannot. Raises TransportError."""
        events = self._events(source, taken)
        if not events:
            return
        results = runner.run(self._app.transport.publish([outgoing for _, outgoing in events]))
        if failpoints.armed:
            failpoints.reached("bridge_published")
        failed: Exception | None = None
        for (each, outgoing), result in zip(events, results, strict=True):
            if isinstance(result, EventRefusedError):
                self._put_aside(source, each, str(result))
            elif isinstance(result, Exception):
                failed = result
            else:
                self._app.metrics.published(outgoing.stream)
                source.done(each)
                self.counts["published"] += 1
        if failed is not None:
            raise TransportError(f"an event cannot be stored now, and its message waits: {failed}")

    def _events(self, source: Source, taken: Sequence[Taken]) -> list[tuple[Taken, Outgoing]]:
        """What is to be published; the others find their end here. Raises TransportError."""
        now = datetime.fromtimestamp(self._app.broker.clock.now(), UTC)
        events = []
        for each in taken:
            if each.message is None:
                self._put_aside(source, each, "it is no message of kombu's")
                continue
            try:
                outgoing = convert(each.message, self._app, self._tasks, now=now, window=self._window)
            except Refused as refused:
                self._put_aside(source, each, str(refused))
            except Expired:
                self.counts["expired"] += 1
                log.warning("bridge.expired", extra=_named(each))
                source.done(each)
            else:
                events.append((each, outgoing))
        return events

    def _put_aside(self, source: Source, taken: Taken, reason: str) -> None:
        self.counts["refused"] += 1
        log.warning("bridge.refused", extra={**_named(taken), "reason": reason, "kept_in": aside(self._queue)})
        source.put_aside(taken, reason)


def _named(taken: Taken) -> dict[str, str]:
    """Which call it is, for the log."""
    message = taken.message
    return {} if message is None else {"task": message.task, "task_id": message.task_id}
