"""Stand-ins for names of the core that are not there yet; goes away."""

from __future__ import annotations

import inspect
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO

from streamtask import Context, Reject


@asynccontextmanager
async def audio_of(chunk: Any, ctx: Context) -> AsyncIterator[BinaryIO]:
    if chunk.inline_audio is None:
        app: Any = ctx.app
        async with app.blobs.open(chunk.storage_uri) as file:
            yield file
    else:
        yield io.BytesIO(chunk.inline_audio)


def on(routes: Any, *events: Any, on_dead: Any, **options: Any) -> Any:
    if "on_dead" in inspect.signature(routes.on).parameters:
        options["on_dead"] = on_dead
    return routes.on(*events, **options)


def worker_lifespan(routes: Any, function: Any) -> None:
    if hasattr(routes, "worker_lifespan"):
        routes.worker_lifespan(function)


def blobs(ctx: Context) -> Any:
    return getattr(ctx.app, "blobs", None)


def state(ctx: Context) -> Any:
    return getattr(ctx, "state", None)


async def checkpoint(ctx: Context, state: Any) -> None:
    if hasattr(ctx, "checkpoint"):
        await ctx.checkpoint(state)


def progress(ctx: Context, fraction: float) -> None:
    if hasattr(ctx, "progress"):
        ctx.progress(fraction)


def keep_own_words(words: Any, *, start: float, end: float, overlap: float, is_first: bool, is_last: bool) -> Any:
    if not overlap:
        return list(words)
    first = float("-inf") if is_first else start + overlap / 2
    last = float("inf") if is_last else end - overlap / 2
    return [word for word in words if first <= (word.start + word.end) / 2 <= last]


__all__ = ["Reject"]
