"""Stand-ins for names of the core that are not there yet; goes away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamtask import Context
from streamtask_contrib.events import Word


def state(ctx: Context) -> Any:
    """What the last attempt kept."""
    return getattr(ctx, "state", None)


async def checkpoint(ctx: Context, state: Any) -> None:
    """Keep."""
    if hasattr(ctx, "checkpoint"):
        await ctx.checkpoint(state)


def progress(ctx: Context, fraction: float) -> None:
    """Tell."""
    if hasattr(ctx, "progress"):
        ctx.progress(fraction)


def keep_own_words(
    words: Sequence[Word], *, start: float, end: float, overlap: float, is_first: bool, is_last: bool
) -> list[Word]:
    """The midpoint rule."""
    if not overlap:
        return list(words)
    first = float("-inf") if is_first else start + overlap / 2
    last = float("inf") if is_last else end - overlap / 2
    return [word for word in words if first <= (word.start + word.end) / 2 <= last]
