"""What the workers of this package do alike around a request: its age, what is said of its end, a result that fits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from pydantic_core import to_json

from streamtask import Context, DeadEvent
from streamtask_contrib.events import TranscriptionCompleted, TranslationCompleted

_R = TypeVar("_R", TranscriptionCompleted, TranslationCompleted)


def waited_since(moment: datetime) -> float:
    """Seconds since a producer's moment. Clocks of two machines differ: what comes from the future has not waited."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def told(dead: DeadEvent, *, work: str, remedy: str) -> str:
    """Why a request was given up, in words for people. `work`: what it was about; `remedy`: against what kills."""
    # An error is told with its class in front.
    said = dead.error.partition(": ")[2] or dead.error
    if dead.reason == "rejected":
        return said
    if dead.reason == "worker_lost":
        return f"the worker process died each time that it worked on this {work} ({said}); {remedy}"
    return f"it was given up after {dead.attempts} attempts: {dead.error}"


async def fitted(result: _R, ctx: Context, *, name: str, limit: int) -> _R:
    """A result as it fits into an event: segments of more than `limit` bytes are stored as a blob, and named in it."""
    written = to_json(result.segments)
    if len(written) <= limit:
        return result
    uri = await ctx.app.blobs.put(written, name=name)
    # The text alone is too long only where many hours are one chunk; it stands in the segments as well.
    text = result.text if len(result.text.encode()) <= limit else ""
    return result.model_copy(update={"segments": [], "segments_uri": uri, "text": text})
