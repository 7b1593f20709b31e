"""How much audio waits for a worker: looked at once for all sockets of a process, while there are any."""

from __future__ import annotations

import asyncio
import logging

from streamtask import App, Inspector, StreamtaskError
from streamtask_contrib.api.settings import ApiSettings

log = logging.getLogger(__name__)

STREAM = "audio-ingest"
GROUP = "audio-pipeline"


class Pressure:
    """The lag of the audio workers, and whether sockets should pause."""

    def __init__(self, app: App, settings: ApiSettings) -> None:
        self._app = app
        self._settings = settings
        self._relieved = asyncio.Event()
        self._relieved.set()
        #: Chunks that wait, as of the last look.
        self.lag = 0

    @property
    def is_high(self) -> bool:
        """Whether too many wait."""
        return not self._relieved.is_set()

    async def relief(self) -> None:
        """Wait until it is worth to go on."""
        await self._relieved.wait()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                self.note(await waiting(self._app))
            except StreamtaskError as error:
                # Nothing is known: what is published then fails by itself, and says so.
                log.warning("pressure.unknown", extra={"error": str(error)})
            await asyncio.sleep(self._settings.lag_interval)

    def note(self, lag: int) -> None:
        """Take a look's answer. Between half the limit and the limit, all stays as it is."""
        self.lag = lag
        if lag > self._settings.max_lag:
            self._relieved.clear()
        elif lag <= self._settings.max_lag // 2:
            self._relieved.set()


async def waiting(app: App) -> int:
    """Chunks that no audio worker has taken yet."""
    inspector = Inspector(app)
    if STREAM not in await inspector.streams():
        return 0
    for group in await inspector.groups(STREAM):
        if group.group == GROUP:
            return group.lag or 0
    # No worker has ever been there: everything waits.
    return sum(info.length for info in await inspector.stream_infos(STREAM))
