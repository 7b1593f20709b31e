"""Lanes: a stream of its own for each priority of a stream. How they are called, and in which order. Pure.

The lane `high` of the stream `orders` is the stream `orders@high`; what has the priority `normal` is in `orders`
itself. No stream can be declared with an `@` in its name, so none can be taken for a lane.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The priority of what is published without one.
NORMAL = "normal"
#: These need not be told where `normal` stands.
_HIGH, _LOW = "high", "low"
_BETWEEN = "@"
_PRIORITY = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_LANE = re.compile(rf"[A-Za-z0-9._:-]{{1,200}}{_BETWEEN}(?!{NORMAL}$){_PRIORITY.pattern}")


def lane(stream: str, priority: str) -> str:
    """The stream of a priority."""
    return stream if priority == NORMAL else f"{stream}{_BETWEEN}{priority}"


def is_lane(stream: str) -> bool:
    """Whether a stream is a lane of another one. What somebody else has called nearly so is none."""
    return _BETWEEN in stream and _LANE.fullmatch(stream) is not None


def home(stream: str) -> str:
    """The stream that a lane is of; any other stream itself."""
    return stream.partition(_BETWEEN)[0] if is_lane(stream) else stream


def priority_of(stream: str) -> str:
    """The priority of what is in a stream."""
    return stream.partition(_BETWEEN)[2] if is_lane(stream) else NORMAL


def ordered(priorities: Sequence[str]) -> tuple[str, ...]:
    """Priorities from the highest to the lowest, `normal` among them.

    Raises:
        ValueError: these are none, or it is not told where `normal` stands.
    """
    given = tuple(priorities) if isinstance(priorities, list | tuple) else ()
    if not given or not all(isinstance(name, str) and _PRIORITY.fullmatch(name) for name in given):
        raise ValueError(
            "priorities are a tuple of names of up to 32 small letters, digits, '_' or '-', the highest first, such as "
            f"('high', 'low'), got {priorities!r}"
        )
    if len(set(given)) < len(given):
        raise ValueError(f"a priority is named twice: {given!r}")
    if NORMAL in given:
        return given
    if not set(given) <= {_HIGH, _LOW} or given == (_LOW, _HIGH):
        raise ValueError(f"where does {NORMAL!r} stand? Name it among the priorities, the highest first: {given!r}")
    return (*(name for name in given if name == _HIGH), NORMAL, *(name for name in given if name == _LOW))
