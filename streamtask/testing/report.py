"""What came of handling one event under faults, for people and for `assert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference from what an undisturbed run leaves."""

    #: Such as "charge('1', 9.5) happened 2 times, expected 1".
    what: str
    #: What would mend it.
    advice: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One way in which the event was handled."""

    #: What happened to the handler.
    name: str
    findings: Sequence[Finding]

    @property
    def is_safe(self) -> bool:
        """Whether it left what an undisturbed run leaves."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Report:
    """Every trial of the handlers of an event. `str` of it is for people."""

    #: Which handlers were tried on which event.
    subject: str
    #: What an undisturbed run leaves.
    expected: Sequence[str]
    trials: Sequence[Trial]
    #: What was not tried, and why.
    untried: Sequence[str]

    @property
    def unsafe(self) -> list[Trial]:
        """The trials that left something else than an undisturbed run."""
        return [trial for trial in self.trials if not trial.is_safe]

    @property
    def is_safe(self) -> bool:
        """Whether every trial left what an undisturbed run leaves."""
        return not self.unsafe

    def assert_safe(self) -> None:
        """Raise AssertionError, with the report, unless every trial was safe."""
        if not self.is_safe:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        n = len(self.unsafe)
        head = f"{self.subject}: " + (
            f"safe to repeat in all of {len(self.trials)} trials"
            if self.is_safe
            else f"{n} of {len(self.trials)} trials left something else than an undisturbed run"
        )
        lines = [head, f"  undisturbed: {', '.join(self.expected) or 'nothing'}"]
        for trial in self.trials:
            lines.append(f"  {'safe  ' if trial.is_safe else 'UNSAFE'}  {trial.name}")
            lines += [f"            {finding.what}" for finding in trial.findings]
        lines += [f"  not tried: {reason}" for reason in self.untried]
        advice = dict.fromkeys(finding.advice for trial in self.unsafe for finding in trial.findings)
        lines += [f"  -> {text}" for text in advice]
        return "\n".join(lines)
