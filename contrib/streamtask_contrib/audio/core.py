"""Stand-ins for names of the core that are not there yet; goes away."""

from __future__ import annotations

from typing import Any

from streamtask import Context


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
