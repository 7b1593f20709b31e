"""Per-handler limits: `concurrency=`, child processes of `pool="process"`, suspects, which run apart; and batches."""

from __future__ import annotations

from collections.abc import Iterable

from streamtask.broker import Broker, Run
from streamtask.handler import Handler
from streamtask.transport.values import Subscription
from streamtask.worker.isolation import CHILDREN, SUSPECTS
from streamtask.worker.slots import Limit


def limit_of(run: Run) -> Limit | None:
    """What a run shares its limit with, and the limit; None: only the slots of the worker limit it."""
    if run.alone:
        return "alone", SUSPECTS
    limit = _limit(run.handler)
    return None if limit is None else (id(run.handler), limit)


def limit_of_stream(broker: Broker, sub: Subscription) -> int | None:
    """How much of a stream can run at a time; None: one of its handlers at least has no limit of its own."""
    handlers = broker.handlers((sub.stream, sub.group))
    known = [limit * _at_once(handler) for handler in handlers if (limit := _limit(handler)) is not None]
    return sum(known) if len(known) == len(handlers) else None


def share_of_stream(broker: Broker, sub: Subscription) -> int:
    """How many events of a stream one slot takes, whichever of its handlers they are for."""
    return min((_at_once(handler) for handler in broker.handlers((sub.stream, sub.group))), default=1)


def children(handlers: Iterable[Handler]) -> int:
    """How many child processes the process pool needs at most."""
    return sum(_limit(handler) or 0 for handler in handlers if handler.pool == "process")


def _at_once(handler: Handler) -> int:
    return handler.batch.size if handler.batch is not None else 1


def _limit(handler: Handler) -> int | None:
    return handler.concurrency or (CHILDREN if handler.pool == "process" else None)
