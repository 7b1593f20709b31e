"""What was found about one subject: the figure, what is usual, and a sentence that a person can check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

Severity = Literal["warning", "critical"]

#: No figure is told as larger: JSON has no infinity.
_LARGEST = 1e12


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

    def __post_init__(self) -> None:
        for name in ("observed", "expected", "score"):
            value = getattr(self, name)
            bounded = 0.0 if math.isnan(value) else min(max(value, -_LARGEST), _LARGEST)
            object.__setattr__(self, name, bounded)


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
