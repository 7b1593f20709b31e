"""A recording with a speaker on each of two channels: a word belongs to the channel that is louder while it is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from streamtask_contrib.audio.decoding import SAMPLE_RATE, Samples

#: Labels by channel: left, right.
LABELS = ("channel-1", "channel-2")

#: How many times the energy of one channel is that of the other, for a word to be its own: 6 dB.
_LOUDER = 4.0
#: Share of the words that have to be one channel's own; below it, the channels are two ears and no two speakers.
_DECIDED = 0.8


def speakers(blocks: Iterable[Samples], spans: Sequence[tuple[float, float]]) -> list[str | None] | None:
    """The label of each span (in seconds, in order), None where neither channel is louder.

    None for all of them where this is no such recording: the channels carry the same, or one room.
    """
    energy = np.zeros((2, len(spans)))
    borders = [(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in spans]
    at = 0
    for block in blocks:
        end = at + block.shape[1]
        for place, (first, last) in enumerate(borders):
            if first < end and last > at:
                energy[:, place] += np.square(block[:, max(0, first - at) : last - at]).sum(axis=1)
        at = end
    left, right = energy[0] > _LOUDER * energy[1], energy[1] > _LOUDER * energy[0]
    if (left | right).mean() < _DECIDED:
        return None
    return [
        LABELS[0] if on_left else LABELS[1] if on_right else None for on_left, on_right in zip(left, right, strict=True)
    ]
