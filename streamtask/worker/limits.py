"""Per-handler limits: `concurrency=`, child processes of `pool="process"`, suspects (apart); starts; batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streamtask.broker import Run
from streamtask.catalog import Catalog
from streamtask.handler import Handler
from streamtask.transport.values import Subscription
from streamtask.worker.isolation import CHILDREN, SUSPECTS
from streamtask.worker.pacer import Intake, Pace
from streamtask.worker.slots import Limit


def limit_of(run: Run) -> Limit | None:
    """What a run shares its limit with, and the limit; None: only the slots of the worker limit it."""
    if run.alone:
        return "alone", SUSPECTS
    handler = run.handler
    if handler.concurrency is None and handler.pool != "process":
        return None
    return id(handler), _limit(handler) or 0


def limit_of_stream(catalog: Catalog, sub: Subscription) -> int | None:
    """How much of a stream can run at a time; None: one of its handlers at least has no limit of its own."""
    handlers = catalog.handlers((sub.stream, sub.group))
    known = [limit * _at_once(handler) for handler in handlers if (limit := _limit(handler)) is not None]
    return sum(known) if len(known) == len(handlers) else None


def share_of_stream(catalog: Catalog, sub: Subscription) -> int:
    """How many events of a stream one slot takes, whichever of its handlers they are for."""
    return min((_at_once(handler) for handler in catalog.handlers((sub.stream, sub.group))), default=1)


def paces_of(handlers: Iterable[Handler]) -> dict[int, Pace]:
    """How fast those handlers go that may start so often only, by `id`."""
    return {id(handler): Pace(handler.rate_limit) for handler in handlers if handler.rate_limit is not None}


def intake_of_stream(catalog: Catalog, sub: Subscription, paces: Mapping[int, Pace]) -> Intake | None:
    """How much of a stream may be taken in for the sake of its limited handlers; None: it has none."""
    handlers = catalog.handlers((sub.stream, sub.group))
    limited = [paces[id(handler)] for handler in handlers if id(handler) in paces]
    return Intake(limited, is_whole=len(limited) == len(handlers)) if limited else None


def any_is_counted(catalog: Catalog, subscriptions: Iterable[Subscription], paces: Mapping[int, Pace]) -> bool:
    """Whether what is here of some stream decides how much more of it may be taken in."""
    return any(
        limit_of_stream(catalog, sub) is not None or intake_of_stream(catalog, sub, paces) is not None
        for sub in subscriptions
    )


def children(handlers: Iterable[Handler]) -> int:
    """How many child processes the process pool needs at most."""
    return sum(_limit(handler) or 0 for handler in handlers if handler.pool == "process")


def _at_once(handler: Handler) -> int:
    return handler.batch.size if handler.batch is not None else 1


def _limit(handler: Handler) -> int | None:
    return handler.concurrency or (CHILDREN if handler.pool == "process" else None)
