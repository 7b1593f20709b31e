"""Duties: what runs beside the work of a process for as long as it works, and ends with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(*duties: Coroutine[object, object, None], ended: str) -> AsyncIterator[None]:
    """Run duties until the `async with` is left, and see them end. One that ends by itself is told as `ended`."""

    def tell(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical(ended, exc_info=task.exception(), extra={"meaning": "this process has to be restarted"})

    tasks = [asyncio.create_task(duty) for duty in duties]
    for task in tasks:
        task.add_done_callback(tell)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
