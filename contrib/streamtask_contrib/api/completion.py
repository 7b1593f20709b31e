"""When a session is done: every chunk has its result, and every result its translations."""

from __future__ import annotations

from collections.abc import Sequence

from streamtask_contrib.api.delivery import Result
from streamtask_contrib.events import TranscriptionCompleted, TranslationCompleted


class Completion:
    """Takes a session's results, in any order and however often, and says whether any more are to be expected."""

    def __init__(self, targets: Sequence[str], *, chunks: int | None = None) -> None:
        self._targets = targets
        self._answered: set[int] = set()
        self._wanted: set[tuple[int, str]] = set()
        self._translated: set[tuple[int, str]] = set()
        #: How many chunks the session has; None: more may come.
        self.chunks = chunks

    def take(self, result: Result) -> None:
        """Note a result."""
        if result.is_partial:
            return
        if isinstance(result, TranscriptionCompleted):
            self._answered.add(result.sequence)
            if result.text.strip():
                self._wanted |= {(result.sequence, target) for target in self._targets if target != result.language}
            if result.is_last:
                self.chunks = result.sequence + 1
        elif isinstance(result, TranslationCompleted) or result.stage == "translation":
            self._translated.add((result.sequence, result.target_language))
        else:
            self._answered.add(result.sequence)

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.chunks is not None and len(self._answered) >= self.chunks and self._wanted <= self._translated
