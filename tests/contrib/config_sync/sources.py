"""A source in memory that does what a test wants of it, and looks at it as the worker takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from streamtask_contrib.config_sync.documents import Form
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.sources.port import ChangedError, MissingError, NotWritableError, Reading
from streamtask_contrib.config_sync.state import State
from streamtask_contrib.config_sync.versions import Version

PLACE = "test:whisper"


class MadeSource:
    """Holds one document of the service "whisper"; None: it is gone."""

    name = "test"
    every = 1.0

    def __init__(self, content: bytes | None, *, form: Form = "yaml", place: str = PLACE) -> None:
        self.content = content
        self.form = form
        self.place = place
        self.is_writable = True
        self.writes: list[bytes] = []
        #: Called when it has been read, and before it is written: others who are faster.
        self.after_read: Callable[[], Awaitable[object]] = partial(asyncio.sleep, 0)
        self.before_write: Callable[[], None] = lambda: None

    async def services(self) -> dict[str, str]:
        return {"whisper": self.place}

    def holds(self, place: str) -> bool:
        return place == self.place

    async def read(self, service: str) -> Reading:
        if self.content is None:
            raise MissingError("there is no file")
        content = self.content
        await self.after_read()
        return Reading(content, self.form)

    def rendered(self, version: Version) -> bytes:
        if not self.is_writable:
            raise NotWritableError("it is only read")
        return version.content

    async def write(
        self, service: str, version: Version, instead_of: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        await asyncio.sleep(0)
        self.before_write()
        if not is_ours() or self.content != (instead_of and instead_of.content):
            raise ChangedError("somebody was faster")
        self.content = version.content
        self.writes.append(version.content)

    async def close(self) -> None:
        pass


async def look(keeper: Keeper, *sources: MadeSource, times: int = 1) -> State:
    """Look at each source in turn; what is known then."""
    for _ in range(times):
        for source in sources:
            state = await keeper.configs.state("whisper") or State(service="whisper", key="")
            await keeper.look(source, source.place, state, is_ours=lambda: True)
    state = await keeper.configs.state("whisper")
    assert state is not None
    return state
