"""Where a track's samples belong in its session: clocks that drift are followed, what is missing is silence. Pure.

Samples come with the moment of their first, and count time themselves; the two never agree for long. A hole is filled
at once. A slow drift is put right where nobody speaks, and in speech only before it can be seen in a transcript; single
moments are not believed, for they say as much about a busy machine as about the sound.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from streamtask_contrib.capture.cutting import Format

#: Seconds that the moments may be off before samples are put in or left out: in quiet, and in speech.
_SLACK_IN_QUIET = 0.03
_SLACK_IN_SPEECH = 0.07
#: So many moments have to say it.
_LOOKS = 9
#: Seconds of a hole that is one whatever the next moment says.
_HOLE = 0.25
#: A longer hole is an interruption: what comes behind it begins anew.
_LONGEST_HOLE = 2.0
#: A moment that lies so far back is none of this clock: it has been set back, and goes on from here.
_BACKWARDS = 1.0


class Placement:
    """Places the portions of one track, one after the other."""

    def __init__(self, form: Format) -> None:
        self._form = form
        #: How far behind the clock the samples were, in seconds, of the last portions.
        self._behind: deque[float] = deque(maxlen=_LOOKS)
        #: What is added to moments since the clock was set back.
        self._shift = 0.0

    def moment(self, at: float) -> float:
        """A moment of the track's clock in seconds of the session."""
        return at + self._shift

    def place(self, at: float, pcm: bytes, *, position: float, is_open: bool) -> bytes | None:
        """The samples that go on where the last ended, at `position`; None: there is an interruption before these.

        `at`: the moment of the first sample. `is_open`: somebody speaks.
        """
        behind = self.moment(at) - position
        if behind > _LONGEST_HOLE:
            return None
        if behind > _HOLE:
            self._behind.clear()
            return bytes(self._form.bytes(behind)) + pcm
        if behind < -_BACKWARDS:
            self._shift -= behind
            self._behind.clear()
            behind = 0.0
        self._behind.append(behind)
        return self._put_right(pcm, is_open=is_open)

    def _put_right(self, pcm: bytes, *, is_open: bool) -> bytes:
        drift = median(self._behind)
        if len(self._behind) < _LOOKS or abs(drift) <= (_SLACK_IN_SPEECH if is_open else _SLACK_IN_QUIET):
            return pcm
        # Behind the clock: some silence more; ahead of it: some samples less.
        right = bytes(self._form.bytes(drift)) + pcm if drift > 0 else pcm[self._form.bytes(-drift) :]
        done = self._form.seconds(len(right) - len(pcm))
        self._behind = deque((each - done for each in self._behind), maxlen=_LOOKS)
        return right
