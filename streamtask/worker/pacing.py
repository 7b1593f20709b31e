"""Limited handlers (`rate_limit=`) of one worker: whether a run may start, and where it waits for that.

What has come for the first time stands aside and holds no slot; what has come back waits in one. Asking across all
workers is `pacer.py`; nothing here runs or settles anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from streamtask.broker import Broker, Run
from streamtask.handler import Handler
from streamtask.telemetry.metrics import Metrics
from streamtask.transport.port import Rates
from streamtask.transport.values import Delivery, Outcome, Release
from streamtask.worker.outage import Outage
from streamtask.worker.pacer import Pace, Pacer
from streamtask.worker.slots import Slots


class Pacing:
    """The starts of a worker's limited handlers. `outcome` takes what is handed back without having started."""

    def __init__(
        self,
        broker: Broker,
        handlers: Iterable[Handler],
        paces: Mapping[int, Pace],
        outcome: Callable[[Delivery, Outcome, Run | None], None],
    ) -> None:
        """`paces`: how fast each limited handler goes, by `id`."""
        self._broker = broker
        self._paces = paces
        self._outcome = outcome
        self._homes = sorted({handler.home for handler in handlers if handler.rate_limit is not None})
        self._pacers: dict[str, Pacer] = {}

    def start(
        self, rates: Rates, slots: Slots, metrics: Metrics, changed: Callable[[], None]
    ) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Prepare to ask: the duties that do so, by name."""
        for stream in self._homes:
            pacer = self._pacers[stream] = Pacer(
                rates,
                stream,
                paces=self._paces,
                outage=Outage("rates", metrics, stream=stream),
                go=slots.resume,
                too_far=lambda run, wait: self._too_far(slots, run, wait),
                changed=changed,
            )
            yield f"pacer-{stream}", pacer.run()

    def close(self) -> None:
        """Ask no more: who waits in a slot has to come back."""
        for pacer in self._pacers.values():
            pacer.close()

    def stands_aside(self, run: Run) -> bool:
        """Whether a run has to wait for its start, and stands aside for it.

        Once it has found no slot when its time came, it would do so again where slots are scarce: what has come back
        waits in a slot.
        """
        if run.handler.rate_limit is None or run.delivery.uncharged:
            return False
        start = self._broker.start(run)
        if start is not None:
            self._pacers[run.handler.home].step_aside(run, start)
        return start is not None

    async def turn(self, run: Run) -> float | None:
        """Wait in a slot until a limited run may start, if its time has not just come; or when it has to come back."""
        pacer = self._pacers[run.handler.home]
        if pacer.may_start(run.delivery) or (start := self._broker.start(run)) is None:
            return None
        try:
            return await pacer.turn(run, start)
        except asyncio.CancelledError:
            self._outcome(run.delivery, Release(), run)
            raise

    def leave(self, delivery: Delivery) -> None:
        """It waits no longer."""
        for pacer in self._pacers.values():
            pacer.leave(delivery)

    def _too_far(self, slots: Slots, run: Run, wait: float) -> None:
        """A run that stands aside cannot start soon: it comes back when it can, here or elsewhere."""
        if slots.dismiss(run):
            self._outcome(run.delivery, Release(wait), None)
