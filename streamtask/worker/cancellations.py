"""Tasks that nobody wants any more: not begun, and ended where they run already. Decides nothing about the outcome."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from streamtask.broker import Run
from streamtask.errors import TransportError
from streamtask.transport.port import Transport
from streamtask.worker.lookups import Lookups
from streamtask.worker.outage import Outage
from streamtask.worker.rounds import Rounds
from streamtask.worker.slots import Running


class Cancellations:
    """Finds out what is cancelled. `running` says what runs."""

    def __init__(self, transport: Transport, outage: Outage, running: Callable[[], Iterable[Running]]) -> None:
        self._transport = transport
        self._outage = outage
        self._running = running
        self._lookups: Lookups[str] = Lookups(transport.cancellations.cancelled, outage)

    async def has(self, run: Run) -> bool:
        """Whether a run is cancelled before it has begun."""
        asked = (self._lookups.stands(run.delivery.stream, name) for name in _names(run))
        return any(await asyncio.gather(*asked))

    async def run(self, rounds: Rounds) -> None:
        """Look at what runs, round by round, until cancelled."""
        while True:
            await rounds.next()
            streams: dict[str, list[Running]] = defaultdict(list)
            for running in self._running():
                if running.run.handler.is_task and not running.revoked:
                    streams[running.run.delivery.stream].append(running)
            try:
                for stream, found in streams.items():
                    await self._look(stream, found)
                self._outage.over()
            except TransportError as error:
                self._outage.failed(error)

    async def _look(self, stream: str, found: list[Running]) -> None:
        asked = [(name, running) for running in found for name in _names(running.run)]
        answers = await self._transport.cancellations.cancelled(stream, [name for name, _ in asked])
        for (_, running), is_cancelled in zip(asked, answers, strict=True):
            if is_cancelled and not running.revoked:
                running.revoke()

    async def close(self) -> None:
        """Ask no more."""
        await self._lookups.close()


def _names(run: Run) -> list[str]:
    """What a run is cancelled by: its own id, or that of its workflow."""
    own = run.envelope.event_id
    return [own] if run.flow is None else [own, run.flow.workflow]
