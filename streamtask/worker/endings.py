"""Outcomes of deliveries → the settler, and out of what the worker counts and holds. Decides nothing about an event."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamtask.broker import Run
from streamtask.transport.port import Transport
from streamtask.transport.values import Dead, Delivery, Done, Outcome, Verdict
from streamtask.worker.batching import together
from streamtask.worker.flow import Flow
from streamtask.worker.leases import Leases
from streamtask.worker.outage import Outage
from streamtask.worker.reporting import Reporter
from streamtask.worker.settler import Settlement, Settler
from streamtask.worker.stock import Stock


class Endings:
    """Where every delivery comes by at its end: there is room for another, and what became of it is on its way."""

    def __init__(
        self,
        owner: str,
        transport: Transport,
        *,
        flow: Flow,
        stock: Stock,
        leases: Leases,
        reporter: Reporter,
        outage: Outage,
    ) -> None:
        self._owner = owner
        self._flow = flow
        self._stock = stock
        self._leases = leases
        self._reporter = reporter
        #: Commits what is put here.
        self.settler = Settler(transport, self._settled, outage)

    def put(self, delivery: Delivery, outcome: Outcome, run: Run | None = None, seconds: float | None = None) -> None:
        """A delivery has its outcome: have it committed soon. `seconds`: how long its handler ran."""
        self._left(delivery, seconds)
        self.settler.put(Settlement(delivery, self._signed(outcome), run, seconds))

    def put_all(self, settlements: list[Settlement]) -> None:
        """The same for several whose handlers have run one after the other."""
        if settlements:
            if self._stock.counts:
                for settlement in settlements:
                    self._stock.leave(settlement.delivery)
            self._flow.left_together([settlement.seconds or 0.0 for settlement in settlements])
            for settlement in settlements:
                if isinstance(settlement.outcome, Dead):
                    settlement.outcome = self._signed(settlement.outcome)
            self.settler.put_all(settlements)

    def put_together(self, ended: Sequence[tuple[Run, Outcome]], seconds: float) -> None:
        """One call of a batch handler has come to these: what it emitted is committed with all of them."""
        settlements = []
        for place, (run, outcome) in enumerate(ended):
            # The handler has run once for all of them.
            took = None if place else seconds
            self._left(run.delivery, took)
            settlements.append(Settlement(run.delivery, self._signed(outcome), run, took))
        for settlement in together(settlements):
            self.settler.put(settlement)

    def lose(self, run: Run) -> None:
        """Its lease was lost: there is nothing to commit."""
        self._left(run.delivery)
        self._settled([(Settlement(run.delivery, Done(), run), Verdict.LOST)])

    def _left(self, delivery: Delivery, seconds: float | None = None) -> None:
        if self._stock.counts:
            self._stock.leave(delivery)
        self._flow.left(seconds)

    def _signed(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(outcome, worker=self._owner) if isinstance(outcome, Dead) else outcome

    def _settled(self, settled: Sequence[tuple[Settlement, Verdict]]) -> None:
        self._leases.drop([settlement.delivery for settlement, _ in settled])
        self._reporter.settled(settled)
