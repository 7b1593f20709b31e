"""A session's transcript, in the forms that people want, and its end."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Response

from streamtask_contrib.api.service import Service, Serving, User
from streamtask_contrib.bot.asking import ask_to_stop
from streamtask_contrib.capture.register import Register
from streamtask_contrib.events import ID
from streamtask_contrib.languages import known
from streamtask_contrib.transcript import Sessions, SessionState, formats

router = APIRouter(tags=["sessions"])

SessionId = Annotated[str, Path(pattern=ID)]
Format = Literal["json", "srt", "vtt", "txt"]
_MEDIA = {
    "json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


async def owned(service: Service, session_id: str, user: str) -> Register:
    """The register of a user's session. Raises 404 where there is none: another's looks the same."""
    register = service.register(session_id)
    if await register.owner() != user:
        raise HTTPException(404, f"there is no session {session_id!r}, or no longer: they are kept for a while only")
    return register


@router.get("/api/sessions/{session_id}/transcript")
async def transcript(
    session_id: SessionId,
    service: Serving,
    user: User,
    form: Annotated[Format, Query(alias="format")] = "json",
    language: Annotated[str | None, Query(description="A language that the session is translated to.")] = None,
) -> Response:
    """What was said, as far as it is known: as JSON, SubRip, WebVTT or text; or its translation."""
    await owned(service, session_id, user)
    state = await Sessions(service.events).load(session_id)
    if state is None or not (state.results or state.failures):
        raise HTTPException(404, f"session {session_id!r} has no results yet: its audio waits for a worker")
    wanted = None if language is None else language_code(language)
    there = {*state.translations, *state.facts.target_languages}
    if wanted is not None and wanted not in there:
        known_ones = ", ".join(sorted(there)) or "none was asked for"
        raise HTTPException(404, f"session {session_id!r} has no translation to {wanted!r}; there is: {known_ones}")
    text = await asyncio.to_thread(_written, state, form, wanted)
    name = f"{session_id}.{form}" if wanted is None else f"{session_id}.{wanted}.{form}"
    headers = {"Content-Disposition": f'inline; filename="{name}"'}
    return Response(text, media_type=_MEDIA[form], headers=headers)


def _written(state: SessionState, form: Format, language: str | None) -> str:
    """The file. In a thread: three hours of words take a while."""
    document = state.transcript() if language is None else state.translation(language)
    return formats.FORMATS[form](document)


@router.delete("/api/sessions/{session_id}", status_code=204)
async def delete(session_id: SessionId, service: Serving, user: User) -> None:
    """Forget a session: its transcript, its translations, its audio. A bot that still listens for it leaves."""
    register = await owned(service, session_id, user)
    if (bot_id := await register.bot()) is not None:
        await ask_to_stop(service.events, bot_id, "session_deleted")
    await register.delete()


def language_code(name: str) -> str:
    """A language's code. Raises 422 where there is no such language."""
    try:
        return known(name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
