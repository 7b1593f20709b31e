"""Hears everything that is published to a stream, also while the broker comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from streamtask import App, StoredEnvelope, TransportError


@asynccontextmanager
async def listening(app: App, stream: str, take: Callable[[StoredEnvelope], object]) -> AsyncIterator[None]:
    """Give all of the stream's events to `take`, in order, meanwhile."""

    async def listen() -> None:
        after = "0"
        while True:
            with contextlib.suppress(TransportError):
                async for stored in app.read(stream, after=after):
                    after = stored.entry_id
                    take(stored)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
