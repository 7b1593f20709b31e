"""Results -> a picture. Run by a Python that has matplotlib: `python plot.py RESULTS.json OUT.png`."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from pathlib import Path

#: Figure, heading, whether more is better; what is drawn, in this order.
_PANELS = (
    ("noop", "no-op handlers, events/s", True),
    ("io", "10 ms handlers, 100 at once, events/s", True),
    ("publish-100", "published by 100 callers, events/s", True),
    ("latency-p50", "publish to handler, p50, ms", False),
    ("memory-idle", "memory idle (PSS), MiB", False),
    ("noop-cpu", "worker CPU a no-op event, µs", False),
)
_OURS, _PEERS, _LIMITS = "#c0392b", "#5d7d9a", "#c9ced3"
#: Beyond this ratio, only a logarithmic axis shows all of it.
_WIDE = 20
#: Where all are below this, digits after the point count.
_SMALL = 20


def draw(source: Path, target: Path) -> None:
    """Draw the medians, the best at the top, with a line from the smallest to the largest value."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    systems = json.loads(source.read_text())["systems"]
    figure, grid = pyplot.subplots(3, 2, figsize=(12, 13), layout="constrained")
    for axes, (name, heading, more) in zip(grid.flat, _PANELS, strict=True):
        if not any(system["values"].get(name) for system in systems.values()):
            axes.set_axis_off()
            continue
        measured = {each: system["values"][name] for each, system in systems.items() if system["values"].get(name)}
        middle = {each: statistics.median(values) for each, values in measured.items()}
        order = sorted(middle, key=middle.__getitem__, reverse=not more)
        medians = [middle[each] for each in order]
        spread = [
            [middle[each] - min(measured[each]) for each in order],
            [max(measured[each]) - middle[each] for each in order],
        ]
        colors = [_LIMITS if systems[each]["limit"] else _OURS if each == "streamtask" else _PEERS for each in order]
        bars = axes.barh(order, medians, xerr=spread, color=colors, error_kw={"elinewidth": 1, "alpha": 0.6})
        digits = 1 if max(medians) < _SMALL else 0
        axes.bar_label(bars, [f"{median:,.{digits}f}" for median in medians], padding=4)
        axes.set_title(f"{heading} ({'more' if more else 'less'} is better)", fontsize=10)
        wide = min(medians) > 0 and max(medians) / min(medians) > _WIDE
        axes.set_xscale("log" if wide else "linear")
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    importlib.import_module("matplotlib").use("Agg")
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
