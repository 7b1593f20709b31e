"""Follower: a service runs with the head of its configuration, as it is now, and says what it really runs with.

    async with Follower(app, "whisper", file="whisper.yaml") as config:
        config.values["model"]
        await config.changed()

The head's bytes are read from the app's records: at once when a snapshot is published, and every second besides. Where
a file is wanted, it holds those bytes. A file that somebody has changed by hand is what the service runs with, is
reported, and is left alone until there is a new version. With the broker away, the service goes on with what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from streamtask import App, ConfigurationError, EventRefusedError, StreamtaskError
from streamtask_contrib.config_sync import files
from streamtask_contrib.config_sync.documents import FORMS, MAX_BYTES
from streamtask_contrib.config_sync.running import Running
from streamtask_contrib.config_sync.state import Facts, State
from streamtask_contrib.config_sync.values import Values
from streamtask_contrib.config_sync.versions import Configs, Version, digest_of
from streamtask_contrib.extras import require

log = logging.getLogger(__name__)

#: The longest time between two reports, in seconds.
REPORT_EVERY: Final = 30.0
#: Seconds between two complaints about the same.
_QUIET: Final = 10.0
#: Seconds that the broker has for its first word, where there is a file to begin with.
_HURRY: Final = 3.0


class Follower:
    """What one process of a service runs with, with `async with`. The app need not be connected, nor be a worker's."""

    def __init__(
        self,
        app: App,
        service: str,
        *,
        file: str | Path | None = None,
        instance: str | None = None,
        every: float = 1.0,
        patience: float = 30.0,
    ) -> None:
        """`file`: holds the configuration's bytes; without it, only this process does.

        `instance`: what this process is called in reports; by default its host and its number. `every`: seconds
        between two looks. `patience`: seconds that the first configuration may take.
        """
        self.service = service
        self.instance = instance or f"{socket.gethostname()}:{os.getpid()}"
        self._app = app
        self._file = None if file is None else Path(file)
        self._every = every
        self._patience = patience
        form = FORMS.get(self._file.suffix, "yaml") if self._file else "yaml"
        if self._file is not None and form == "yaml":
            require("yaml", "yaml")
        self._running = Running(form)
        #: What the file held last.
        self._content: bytes | None = None
        #: The head as it was seen last, and the key of the service's digests.
        self._head: Facts | None = None
        self._key = b""
        #: What the last report was about, and when it was.
        self._told: tuple[object, ...] = ()
        self._told_at = float("-inf")
        self._complained_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = asyncio.Event()
        #: Something is to be looked at; it has been, once; the values are others.
        self._woken, self._looked, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin with the head or, where the broker is away, with what the file holds.

        Raises:
            ConfigurationError: there is neither.
        """
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._listen())]
        try:
            await self._begin()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop following; what the file holds stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connected.is_set():
            self._connected.clear()
            await self._app.__aexit__()

    # ── for the service ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def values(self) -> Values:
        """What the service is to run with now."""
        return self._running.values

    @property
    def version(self) -> int:
        """The version that was taken over last; 0: none so far."""
        return self._running.version

    async def changed(self, since: Values | None = None) -> Values:
        """Wait until the values are others than these, or than now; returns them."""
        known = self.values if since is None else since
        while self.values is known:
            await self._changed.wait()
        return self.values

    def override(self, values: Mapping[str, Any]) -> None:
        """Run with other values for some dotted names until the next version. It is reported as any change by hand."""
        with self._telling():
            self._running.override(values)
        self._woken.set()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Wake who waits for other values, if they are others then."""
        before = self._running.values if self._running.is_set else None
        yield
        if self._running.values is not before:
            self._changed.set()
            self._changed = asyncio.Event()

    # ── following ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_HURRY, self._patience)):
                await self._looked.wait()
        try:
            async with asyncio.timeout(self._patience):
                while not self._running.is_set:
                    await self._changed.wait()
        except TimeoutError:
            raise ConfigurationError(
                f"there is no configuration of {self.service!r}: no worker of config-sync has read one, or the broker "
                "is away and there is no file"
            ) from None

    async def _run(self) -> None:
        """Look at the file and at the head, and report, until it is cancelled."""
        while True:
            for step in (self._look_at_file, self._look_at_head, self._report):
                try:
                    await step()
                except Exception as error:  # noqa: BLE001 - a duty: what nobody has thought of must not end it
                    # Most often the broker is away, or the file cannot be written.
                    self._complain(step.__name__.lstrip("_"), error)
            self._looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._woken.wait()
            self._woken.clear()

    async def _listen(self) -> None:
        """Wake up when a snapshot is published."""
        while True:
            await self._connected.wait()
            try:
                async for envelope in self._app.read("config-sync"):
                    if envelope.event_type == "ConfigSnapshot":
                        self._woken.set()
            except Exception as error:  # noqa: BLE001 - as above
                self._complain("listen", error)
            await asyncio.sleep(self._every)

    async def _look_at_file(self) -> None:
        if self._file is None:
            return
        try:
            content = await files.read(self._file, self._content, MAX_BYTES + 1)
        except FileNotFoundError:
            content = None
        if content == self._content:
            return
        self._content = content
        with self._telling():
            self._running.read(content)
        if self._running.problem:
            told = {"service": self.service, "file": str(self._file), "error": self._running.problem}
            log.warning("config.file_unreadable", extra=told)
        elif self._running.is_changed(content):
            log.warning("config.file_changed", extra={"service": self.service, "file": str(self._file)})

    async def _look_at_head(self) -> None:
        if not self._connected.is_set():
            await self._app.__aenter__()
            self._connected.set()
        configs = Configs(self._app.records)
        state = await configs.state(self.service)
        if state is None or state.head is None or state.head == self._head:
            return
        version = await configs.version(self.service, state.head)
        if version is None:
            return  # there is a newer one already
        if self._head is None and self._is_changed_by_hand(state):
            with self._telling():
                self._running.see(version)
                self._running.read(self._content)
        else:
            await self._take(version)
        self._head, self._key = state.head, bytes.fromhex(state.key)

    def _is_changed_by_hand(self, state: State) -> bool:
        """Whether the file that was found at the start is none of the versions: no follower has written it."""
        return self._content is not None and digest_of(self._content) not in {each.digest for each in state.versions}

    async def _take(self, version: Version) -> None:
        if self._file is not None and self._content != version.content:
            await asyncio.to_thread(files.replace, self._file, version.content)
            self._content = version.content
        with self._telling():
            self._running.take(version)
        log.info("config.taken", extra={"service": self.service, "version": version.number})

    async def _report(self) -> None:
        running, head = self._running, self._running.head
        if head is None:
            return
        about = (running.values, running.problem, running.version, head.number)
        if about == self._told and time.monotonic() - self._told_at < REPORT_EVERY:
            return
        try:
            await self._app.publish(running.report(self.service, self.instance, self._key))
        except EventRefusedError as error:
            # Too much for an event: it will not be less in a second.
            self._complain("report", error)
        self._told, self._told_at = about, time.monotonic()

    def _complain(self, step: str, error: Exception) -> None:
        if time.monotonic() - self._complained_at > _QUIET:
            self._complained_at = time.monotonic()
            # Not the words of others: a value may be among them.
            said = str(error) if isinstance(error, StreamtaskError | OSError) else type(error).__name__
            log.warning("config.follow_failed", extra={"service": self.service, "step": step, "error": said})
