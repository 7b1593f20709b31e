"""What was measured, as it is kept: plain values that become JSON and come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(slots=True, kw_only=True)
class SystemResult:
    """One system's numbers, and why some are not there."""

    settings: str
    limit: bool = False
    #: Distribution to version, of what the report shows.
    versions: dict[str, str] = field(default_factory=dict)
    #: Figure to its values, one a round.
    values: dict[str, list[float]] = field(default_factory=dict)
    #: What failed, and what it said: "installing", or the name of a scene.
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Results:
    """One run of the program."""

    command: str
    date: str
    rounds: int
    quick: bool
    #: "processor", "memory", "system", "python", "redis", "commit", "load": what the numbers were taken on.
    machine: dict[str, str]
    systems: dict[str, SystemResult] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        return cls.from_plain(json.loads(path.read_text()))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Take what stands in the JSON."""
        systems = {name: SystemResult(**each) for name, each in plain["systems"].items()}
        return cls(**{**plain, "systems": systems})
