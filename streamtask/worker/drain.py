"""The end of what runs: within its grace, or interrupted and handed back. Decides nothing about an outcome."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from streamtask.transport.port import Transport
from streamtask.transport.values import Subscription
from streamtask.worker.memory import resident_mib
from streamtask.worker.slots import Running, Slots

log = logging.getLogger(__name__)


async def drain(
    slots: Slots, owner: str, *, grace: float, hurry: asyncio.Event, max_memory: int | None, last_words: float
) -> None:
    """Let what runs end within `grace` seconds, or until `hurry` is set; what is left is interrupted then.

    `last_words`: seconds that it has for its own end. With more memory than `max_memory` (MiB) in this process, being
    interrupted counts as a crash of what runs here.
    """
    log.info("worker.draining", extra={"owner": owner, "running": len(slots.running), "grace": grace})
    # As it is now: what is freed meanwhile was there.
    is_too_heavy = max_memory is not None and resident_mib(os.getpid()) > max_memory
    hurried, idle = asyncio.create_task(hurry.wait()), asyncio.create_task(slots.idle(grace))
    await asyncio.wait((hurried, idle), return_when=asyncio.FIRST_COMPLETED)
    await cancel_all([hurried, idle])
    for running in slots.running:
        # What runs in a process of its own has its memory there.
        charged = is_too_heavy and running.run.handler.pool != "process" and not running.run.alone
        _tell(running, charged=charged)
        running.cancel(charged=charged)
    await slots.idle(last_words)


def _tell(running: Running, *, charged: bool) -> None:
    for run in running.runs:
        log.warning(
            "handler.interrupted",
            extra={
                "handler": run.handler.name,
                "event_id": run.envelope.event_id,
                "stream": run.delivery.stream,
                "entry_id": run.delivery.entry_id,
                "charged": charged,
            },
        )


async def hand_back_the_rest(
    slots: Slots, transport: Transport, owner: str, subscriptions: Sequence[Subscription]
) -> None:
    """What could not be ended and has not been settled goes to others: threads, above all, that run on."""
    for sub in subscriptions:
        charged = [
            run.delivery.entry_id
            for running in slots.running
            for run in running.runs
            if running.charged and (run.delivery.stream, run.delivery.group) == (sub.stream, sub.group)
        ]
        await transport.recovery.hand_back(sub.stream, sub.group, owner, started=charged)


async def cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
