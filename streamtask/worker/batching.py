"""One batch in one slot → the outcome of each of its events: duplicates taken out, the handler called within its time.

It settles nothing. What the call leaves for all of its events together is made one settlement by `together`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from streamtask.batches import BatchCall
from streamtask.broker import Broker, Run
from streamtask.context import Application, BatchContext
from streamtask.errors import LeaseLostError
from streamtask.telemetry import logs
from streamtask.transport.values import Done, Outcome, Together
from streamtask.worker.executor import Executor
from streamtask.worker.settler import Settlement


class BatchExecutor:
    """Runs batch handlers as `Executor` runs the others, and by its means."""

    def __init__(self, app: Application, broker: Broker, executor: Executor) -> None:
        self._app = app
        self._broker = broker
        self._executor = executor

    async def execute(self, runs: Sequence[Run], settle: Callable[[Run, Outcome], None]) -> list[tuple[Run, Outcome]]:
        """Run a batch handler on these. What needs no call is given to `settle` before it.

        Raises:
            LeaseLostError: the leases of all were lost meanwhile; there is nothing to settle.
        """
        first = runs[0]
        logs.bind((first.envelope, first.delivery))
        call, context = BatchCall(self._broker, runs), None
        try:
            await self._drop_duplicates(call)
            for run, outcome in call.ended:
                settle(run, outcome)
            if not call.members:
                return []
            outcomes = await self._apart(call)
            if outcomes is None:
                context = self._context(call)
                returned = await self._executor.within(first, call.events, context)
                outcomes = call.succeed(context, returned)
        except asyncio.CancelledError as error:
            if all(self._executor.leases.is_lost(run.delivery) for run in call.runs):
                raise LeaseLostError(first.delivery.entry_id, first.delivery.owner) from None
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcomes = call.fail(context, error)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its failure, SystemExit included
            outcomes = call.fail(context, error)
        return list(zip(call.runs, outcomes, strict=True))

    async def _drop_duplicates(self, call: BatchCall) -> None:
        marked = {member.mark.name: member.run.delivery for member in call.members if member.mark is not None}
        # Asked in one turn of the loop, they are one question.
        found = await asyncio.gather(
            *(self._executor.seen(delivery.group, (delivery.stream, name)) for name, delivery in marked.items())
        )
        call.drop_duplicates(dict(zip(marked, found, strict=True)))

    async def _apart(self, call: BatchCall) -> list[Outcome] | None:
        """The outcomes where a child process has run it; None where it has to run here."""
        first = call.runs[0]
        if not first.alone and first.handler.pool != "process":
            return None
        return await self._executor.apart(first, self._executor.isolation.handle_batch(call.runs))

    def _context(self, call: BatchCall) -> BatchContext | None:
        runs = call.runs
        if runs[0].handler.context is None:
            return None
        return BatchContext([run.envelope for run in runs], [run.delivery.attempt for run in runs], self._app)


def together(ended: Sequence[Settlement]) -> list[Settlement]:
    """The outcomes of one call: where it has emitted, those that are done are settled together or not at all."""
    done = [(each, each.outcome) for each in ended if isinstance(each.outcome, Done)]
    emits = tuple(emit for _, outcome in done for emit in outcome.emits)
    if not emits or len(done) == 1:
        return list(ended)
    (first, mark), *others = [(each.delivery, outcome.mark) for each, outcome in done]
    members = tuple(each for each, _ in done)
    rest = [each for each in ended if not isinstance(each.outcome, Done)]
    return [Settlement(first, Together(emits, mark, tuple(others)), members=members), *rest]
