"""What handlers have come to → the transport: states at once, progress twice a second. Decides nothing.

Who checkpoints waits until it is kept, however long the server is away: the work that it has done is safe nowhere else.
Progress is for people: nobody waits for it, and of each delivery the last word is written.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Final

from streamtask.errors import LeaseLostError, TransportError
from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery, Progress
from streamtask.worker.outage import Outage

#: Seconds between two writes of progress.
_EVERY: Final = 0.5


class Checkpoints:
    """`Notes` of a worker. Belongs to its loop; `report` and `save_blocking` are for any thread."""

    def __init__(self, transport: Transport, outage: Outage) -> None:
        self._checkpoints = transport.checkpoints
        self._outage = outage
        self._loop = asyncio.get_running_loop()
        self._some = asyncio.Event()
        self._lock = threading.Lock()
        #: What is not written yet.
        self._progress: dict[Delivery, tuple[str, Progress]] = {}
        #: Of threads that wait for it.
        self._saving: set[asyncio.Task[None]] = set()
        self._closed = False
        #: Of states, each higher than those before.
        self._numbers = itertools.count(1)

    async def load(self, delivery: Delivery) -> bytes | None:
        """The state that an earlier delivery has left."""
        return await self._outage.outlast(lambda: self._checkpoints.load(delivery))

    async def save(self, delivery: Delivery, state: bytes) -> None:
        """Keep a state. Raises LeaseLostError."""
        number = next(self._numbers)
        if self._closed or not await self._outage.outlast(lambda: self._checkpoints.save(delivery, state, number)):
            raise LeaseLostError(delivery.entry_id, delivery.owner)

    def save_blocking(self, delivery: Delivery, state: bytes) -> None:
        """The same, for a thread without an event loop."""
        asyncio.run_coroutine_threadsafe(self._save_for_a_thread(delivery, state), self._loop).result()

    async def _save_for_a_thread(self, delivery: Delivery, state: bytes) -> None:
        task = asyncio.create_task(self.save(delivery, state))
        self._saving.add(task)
        try:
            await task
        finally:
            self._saving.discard(task)

    def report(self, delivery: Delivery, event_id: str, progress: Progress) -> None:
        """Have it written soon."""
        with self._lock:
            is_first = not self._progress
            self._progress[delivery] = event_id, progress
        if is_first:
            self._loop.call_soon_threadsafe(self._some.set)

    async def run(self) -> None:
        """Write progress, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            with self._lock:
                taken, self._progress = self._progress, {}
            try:
                await self._checkpoints.report([(delivery, *said) for delivery, said in taken.items()])
            except TransportError as error:
                self._outage.failed(error)
                with self._lock:
                    # What has come meanwhile is newer; and what is settled meanwhile, the fence will refuse.
                    self._progress = taken | self._progress
                self._some.set()
            else:
                self._outage.over()
            await asyncio.sleep(_EVERY)

    def close(self) -> None:
        """Let no thread wait any longer, and none begin: the worker has given back what it held."""
        self._closed = True
        for task in self._saving:
            task.cancel()
