"""The figures: what each number is. How it is taken is in scenes.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of a system."""

    name: str
    title: str
    unit: str
    #: The heading of its table.
    group: str
    #: Whether more is better.
    more: bool = True
    #: Digits after the point.
    digits: int = 0


HANDLING, PUBLISHING, LATENCY, FOOTPRINT, GROWTH = (
    "Handling",
    "Publishing",
    "Latency at low load",
    "Footprint of the worker",
    "Growth",
)

FIGURES = {
    figure.name: figure
    for figure in (
        Figure(name="noop", title="no-op handlers", unit="/s", group=HANDLING),
        Figure(name="noop-cpu", title="worker CPU a no-op event", unit="µs", group=HANDLING, more=False),
        Figure(name="emit", title="each emits one event, atomically", unit="/s", group=HANDLING),
        Figure(name="io", title="10 ms handlers, 100 at once", unit="/s", group=HANDLING),
        Figure(name="publish-one", title="one by one", unit="/s", group=PUBLISHING),
        Figure(name="publish-100", title="100 callers at once", unit="/s", group=PUBLISHING),
        Figure(name="publish-many", title="call for many", unit="/s", group=PUBLISHING),
        Figure(name="latency-p50", title="publish to handler, p50", unit="ms", group=LATENCY, more=False, digits=2),
        Figure(name="latency-p99", title="p99", unit="ms", group=LATENCY, more=False, digits=2),
        Figure(name="start", title="start-up to first event", unit="s", group=LATENCY, more=False, digits=2),
        Figure(name="memory-idle", title="memory idle, PSS", unit="MiB", group=FOOTPRINT, more=False),
        Figure(name="memory-peak", title="peak RSS in the no-op drain", unit="MiB", group=FOOTPRINT, more=False),
        Figure(name="cpu-idle", title="CPU idle", unit="%", group=FOOTPRINT, more=False, digits=2),
        Figure(name="drain-20k", title="no-op, backlog of 20 thousand", unit="/s", group=GROWTH),
        Figure(name="drain-1m", title="backlog of 1 million", unit="/s", group=GROWTH),
        Figure(name="drain-pending", title="20 thousand, beside 100 thousand pending", unit="/s", group=GROWTH),
    )
}
