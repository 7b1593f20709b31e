"""Many runs: what they have shown together, and how to see a failed one again."""

from __future__ import annotations

from collections import Counter

from tests.simulation.options import Options
from tests.simulation.world import Result

#: Figures of which the greatest tells, not the sum.
_GREATEST = ("seconds until all was settled", "commands per idle second")


def replay_command(options: Options) -> str:
    """What to type to see a run again, step by step."""
    alone = f" --only {options.alone}" if options.alone else ""
    return f"python -m tests.simulation --replay {options.seed}{alone}"


class Campaign:
    """Runs of many seeds, added up."""

    def __init__(self) -> None:
        self.runs = 0
        self.failed: list[Result] = []
        self._sums: Counter[str] = Counter()
        self._greatest: dict[str, float] = {}

    def add(self, result: Result) -> None:
        """Count a run in."""
        self.runs += 1
        if result.wrong:
            self.failed.append(result)
        for name, figure in result.figures.items():
            if name in _GREATEST:
                self._greatest[name] = max(figure, self._greatest.get(name, 0.0))
            else:
                self._sums[name] += figure  # type: ignore[assignment]

    def report(self) -> str:
        """The figures, and each failure with its seed, its options and the command that shows it again."""
        sums = [f"{name} {figure:.0f}" for name, figure in sorted(self._sums.items())]
        greatest = [f"most {name} {figure:.1f}" for name, figure in sorted(self._greatest.items())]
        lines = [f"MEASURED {self.runs} seeds: {', '.join(sums + greatest)}"]
        for result in self.failed:
            lines += [f"seed {result.options.seed}: {result.options}", *(f"    {line}" for line in result.wrong[:10])]
            lines.append(f"    again: {replay_command(result.options)}")
        return "\n".join(lines)
