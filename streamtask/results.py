"""Waiting for results: one reader for all who wait in this process, and no questions while nothing has come.

The news of a stream's results are read only while somebody waits for one of them. News may be missed (they are kept for
a while only, and a server may lose them), so who waits asks for the result itself now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from streamtask.errors import ResultTimeoutError, TransportError
from streamtask.transport import port
from streamtask.transport.values import Progress

log = logging.getLogger(__name__)

#: Seconds of one read; between two questions for a result of which no news came; before the news are tried again.
_READ = 5.0
_ASK = 5.0
_AGAIN = 0.5


class ResultReader:
    """Waits for results on one transport. Made and used within one event loop; `close` ends its reading."""

    def __init__(self, results: port.Results) -> None:
        self._results = results
        self._streams: dict[str, _News] = {}

    async def wait(self, stream: str, event_id: str, *, timeout: float | None) -> bytes:
        """The result of an event, once there is one.

        Raises:
            ResultTimeoutError: it has not come within `timeout` seconds.
        """
        news = self._streams.setdefault(stream, _News(self._results, stream))
        try:
            async with asyncio.timeout(timeout):
                with news.listening(event_id) as heard:
                    return await self._until_there(stream, event_id, news, heard)
        except TimeoutError:
            raise ResultTimeoutError(
                f"the result of {event_id} has not come within {timeout:g} s; it is still worked on, or waits for a "
                "worker: ask again"
            ) from None

    async def progress(self, stream: str, event_id: str) -> AsyncIterator[Progress]:
        """How far an event's handler is, each time that it says so, until there is a result; first its last word."""
        ended = asyncio.create_task(self.wait(stream, event_id, timeout=None))
        position, wait = "0", 0.0
        try:
            while not ended.done() or not wait:
                asking = asyncio.create_task(self._results.progress(stream, event_id, after=position, wait=wait))
                try:
                    await asyncio.wait((ended, asking) if wait else (asking,), return_when=asyncio.FIRST_COMPLETED)
                    if asking.done():
                        (said, position), wait = asking.result(), _READ
                        if said is not None:
                            yield said
                except TransportError as error:
                    log.debug("results.interrupted", extra={"stream": stream, "error": str(error)})
                    await asyncio.sleep(_AGAIN)
                finally:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def _until_there(self, stream: str, event_id: str, news: _News, heard: asyncio.Event) -> bytes:
        while True:
            try:
                # What comes from here on is heard, so what is asked for next is not missed in between.
                await news.begun()
                body = await self._results.get(stream, event_id)
                if body is not None:
                    return body
            except TransportError as error:
                log.warning("results.broker_away", extra={"stream": stream, "error": str(error), "again_in": _AGAIN})
                await asyncio.sleep(_AGAIN)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_ASK):
                    await heard.wait()
            heard.clear()

    async def close(self) -> None:
        """End the reading. Who waits goes on asking, and is told that the transport is closed."""
        for news in self._streams.values():
            await news.close()

    def stop(self) -> None:
        """The same without waiting for it, also where its loop is closed."""
        for news in self._streams.values():
            news.stop()


class _News:
    """The news of one stream's results."""

    def __init__(self, results: port.Results, stream: str) -> None:
        self._results = results
        self._stream = stream
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._position: str | None = None
        self._beginning = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self, event_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the result of this event has come."""
        heard = asyncio.Event()
        self._waiting.setdefault(event_id, set()).add(heard)
        try:
            yield heard
        finally:
            waiting = self._waiting[event_id]
            waiting.remove(heard)
            if not waiting:
                del self._waiting[event_id]

    async def begun(self) -> None:
        """News are read from a moment on that has passed. Raises `TransportError`."""
        async with self._beginning:
            if self._position is None:
                self._position = await self._results.position(self._stream)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name=f"streamtask-results-{self._stream}")

    async def close(self) -> None:
        """Read no more."""
        self.stop()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    def stop(self) -> None:
        """Have the reading end."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()

    async def _read(self) -> None:
        while self._waiting and self._position is not None:
            try:
                come, self._position = await self._results.news(self._stream, after=self._position, wait=_READ)
            except TransportError as error:
                log.debug("results.interrupted", extra={"stream": self._stream, "error": str(error)})
                await asyncio.sleep(_AGAIN)
                continue
            for event_id in come:
                for heard in self._waiting.get(event_id, ()):
                    heard.set()
        # Whoever comes next begins anew: what came meanwhile is not of interest.
        self._position = None
