"""The group `transcripts`: writes what comes of each chunk into its session's record."""

from __future__ import annotations

from streamtask import Context, Router
from streamtask_contrib.events import ProcessingFailed, TranscriptionCompleted, TranslationCompleted
from streamtask_contrib.transcript.sessions import TTL, Sessions

GROUP = "transcripts"


def router(*, ttl: float = TTL) -> Router:
    """The handlers, for `app.include`. `ttl`: seconds that a session is kept after the last that is heard of it."""
    routes = Router()

    # Not de-duplicated: a chunk's partials have its key too, a result may come anew, and writing twice is harmless.
    @routes.on(TranscriptionCompleted, group=GROUP, dedupe=False)
    async def keep_words(event: TranscriptionCompleted, ctx: Context) -> None:
        await Sessions(ctx.app, ttl=ttl).add_result(event)

    @routes.on(TranslationCompleted, group=GROUP, dedupe=False)
    async def keep_translation(event: TranslationCompleted, ctx: Context) -> None:
        await Sessions(ctx.app, ttl=ttl).add_translation(event)

    @routes.on(ProcessingFailed, group=GROUP, dedupe=False)
    async def keep_failure(event: ProcessingFailed, ctx: Context) -> None:
        await Sessions(ctx.app, ttl=ttl).add_failure(event)

    return routes
