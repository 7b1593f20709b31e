"""What was found about one subject: the figure, what is usual, and a sentence that a person can check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A figure of a subject, and what it shows."""

    kind: str
    subject: str
    severity: Severity = "warning"
    observed: float = 0.0
    expected: float = 0.0
    #: How far that is from what is usual, or allowed: 1 is at the limit, or in deviations.
    score: float = 0.0
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding, and whether it is bad."""

    finding: Finding
    is_bad: bool

    @property
    def name(self) -> tuple[str, str]:
        """Kind and subject."""
        return self.finding.kind, self.finding.subject

    @classmethod
    def well(cls, kind: str, subject: str, observed: float, evidence: str) -> Self:
        """Nothing is wrong."""
        return cls(Finding(kind=kind, subject=subject, observed=observed, evidence=evidence), is_bad=False)
