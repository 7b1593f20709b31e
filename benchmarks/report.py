"""Results -> the tables, in Markdown: the same on the terminal and in the documentation. Measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.figures import FIGURES, Figure
from benchmarks.results import Results, SystemResult

US = "streamtask"
_NOTHING, _FAILED = "–", "failed"
#: Below this, a tenth counts.
_SMALL_RATIO = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """The values of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Their median, smallest and largest."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How streamtask stands to the best of its peers in one figure."""

    #: Above 1: streamtask is so many times better.
    ratio: float
    peer: str


def compare(results: Results, figure: Figure) -> Comparison | None:
    """Hold the median of streamtask to the best peer's; limits are no peers. None without anything to compare."""
    medians = {
        name: statistics.median(values)
        for name, system in results.systems.items()
        if not system.limit and (values := system.values.get(figure.name))
    }
    ours = medians.pop(US, None)
    if ours is None or not medians:
        return None
    best = max(medians, key=lambda name: medians[name] if figure.more else -medians[name])
    better, worse = (ours, medians[best]) if figure.more else (medians[best], ours)
    # At nothing (no CPU that could be seen), there is no ratio to speak of.
    return Comparison(better / worse, best) if better and worse else None


def render(results: Results) -> str:
    """Everything: how it was measured, the tables, what is missing, the settings."""
    parts = [_conditions(results)]
    groups = dict.fromkeys(figure.group for figure in FIGURES.values())
    for group in groups:
        measured = [figure for figure in FIGURES.values() if figure.group == group and _anywhere(results, figure)]
        if measured:
            parts.append(f"### {group}\n\n{_table(results, measured)}")
    missing = _missing(results)
    if missing:
        parts.append(f"### Not measured\n\n{missing}")
    parts.append(f"### Versions and settings\n\n{_settings(results)}")
    return "\n\n".join(parts) + "\n"


def _conditions(results: Results) -> str:
    machine = results.machine
    rounds = f"{results.rounds} round{'s' if results.rounds != 1 else ''}"
    lines = [
        f"Measured on {results.date} with `{results.command}`, {rounds}, the systems in turn and their order rotated.",
        "A cell is the median of the rounds and, in brackets, the smallest and the largest value.",
        f"Machine: {machine['processor']}, {machine['memory']}, {machine['system']}; Python {machine['python']}, "
        f"{machine['redis']} without persistence on the same machine; load before it began {machine['load']}"
        + (f"; commit {machine['commit']}." if machine.get("commit") else "."),
    ]
    if results.quick:
        lines.append("**A quick run: to see that it works. The numbers are worth little.**")
    return "\n".join(lines)


def _table(results: Results, figures: Sequence[Figure]) -> str:
    shown = {
        name: system
        for name, system in results.systems.items()
        if any(each.name in system.values for each in figures) or any(_failure(system, each) for each in figures)
    }
    heading = ["system", *(f"{figure.title} ({figure.unit})" for figure in figures)]
    rows = [[_label(name, system), *(_cell(system, figure) for figure in figures)] for name, system in shown.items()]
    compared = [_compared(compare(results, figure)) for figure in figures]
    if any(each != _NOTHING for each in compared):
        rows.append([f"*{US} to the best peer*", *compared])
    return table(heading, rows)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns line up: the first to the left, numbers to the right."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    padded = [
        [cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zipped)]
        for zipped in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    rule = ["-" * width if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def _label(name: str, system: SystemResult) -> str:
    return f"*{name}* (limit)" if system.limit else f"**{name}**" if name == US else name


def _cell(system: SystemResult, figure: Figure) -> str:
    values = system.values.get(figure.name)
    if not values:
        return _FAILED if _failure(system, figure) else _NOTHING
    summary = Summary.of(values)
    median, low, high = (f"{value:,.{figure.digits}f}" for value in (summary.median, summary.low, summary.high))
    return median if len(values) == 1 else f"{median} ({low}–{high})"


def _failure(system: SystemResult, figure: Figure) -> str | None:
    """What kept a figure from being measured; a failure names the figures it cost."""
    return next((why for what, why in system.failures.items() if figure.name in what.split(", ")), None)


def _compared(comparison: Comparison | None) -> str:
    if comparison is None:
        return _NOTHING
    digits = 1 if comparison.ratio >= 1 else 2
    digits = 0 if comparison.ratio >= _SMALL_RATIO else digits
    return f"{comparison.ratio:.{digits}f} × {comparison.peer}"


def _anywhere(results: Results, figure: Figure) -> bool:
    return any(figure.name in system.values for system in results.systems.values())


def _missing(results: Results) -> str:
    lines = []
    for name, system in results.systems.items():
        whats: dict[str, list[str]] = {}
        for what, why in system.failures.items():
            whats.setdefault(why, []).append(what)
        lines += [f"- {name} ({', '.join(each)}): {why}" for why, each in whats.items()]
    return "\n".join(lines)


def _settings(results: Results) -> str:
    rows = ["| system | versions | settings |", "| --- | --- | --- |"]
    for name, system in results.systems.items():
        versions = ", ".join(f"{each} {version}" for each, version in system.versions.items()) or _NOTHING
        rows.append(f"| {name} | {versions} | {system.settings} |")
    return "\n".join(rows)
