"""`/v1/audio/transcriptions`: the form in which OpenAI's clients ask, so that they can ask here.

It waits for what it accepts. Behind it is an upload like any other: the same file is not worked on twice, and whoever
gives up waiting and asks again gets the same work's result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, HTTPException, Response, UploadFile
from pydantic import ValidationError

from streamtask_contrib.api.service import Service, Serving, User
from streamtask_contrib.api.uploads import accept
from streamtask_contrib.capture.chunks import Wishes
from streamtask_contrib.transcript import Sessions, Transcript, formats

router = APIRouter(tags=["audio"])

Wanted = Literal["json", "text", "srt", "verbose_json", "vtt"]
#: Seconds after which the session is looked at without having been told of a result.
_LOOK = 0.25


@router.post("/v1/audio/transcriptions", response_class=Response)
async def transcriptions(
    *,
    service: Serving,
    user: User,
    file: Annotated[UploadFile, File(description="Audio, or a video with sound.")],
    language: Annotated[str | None, Form(description="What is spoken; left out, the model finds out.")] = None,
    response_format: Annotated[Wanted, Form()] = "json",
    model: Annotated[str, Form(description="Ignored: the workers have the model that they have.")] = "",  # noqa: ARG001
) -> Response:
    """The words of a file, once they are there."""
    try:
        wishes = Wishes(language=language)
    except ValidationError as error:
        raise HTTPException(422, "; ".join(one["msg"] for one in error.errors())) from error
    with service.uploads.take(user):
        accepted = await accept(service, user, file, wishes)
    transcript = await _finished(service, accepted.session_id)
    if transcript.failed and not transcript.segments:
        raise HTTPException(422, next(iter(transcript.failed.values())))
    return _answer(transcript, response_format)


async def _finished(service: Service, session_id: str) -> Transcript:
    """The transcript, once it is complete. Raises 504."""
    sessions = Sessions(service.events)
    try:
        async with asyncio.timeout(service.settings.end_timeout):
            with service.hub.listen(session_id, after="$") as mailbox:
                while True:
                    state = await sessions.load(session_id)
                    if state is not None:
                        transcript = await asyncio.to_thread(state.transcript)
                        if transcript.is_complete:
                            return transcript
                    # A result is told of before its record has it; and the record may be written elsewhere.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            await mailbox.get()
    except TimeoutError:
        limit = service.settings.end_timeout
        raise HTTPException(504, f"it has taken longer than {limit:g} s; ask again, the work goes on") from None


def _answer(transcript: Transcript, wanted: Wanted) -> Response:
    if wanted in ("srt", "vtt", "text"):
        text = formats.FORMATS["txt" if wanted == "text" else wanted](transcript)
        return Response(text, media_type="text/plain; charset=utf-8")
    facts: dict[str, object] = {"text": transcript.text}
    if wanted == "verbose_json":
        facts |= {
            "task": "transcribe",
            "language": transcript.language,
            "duration": transcript.end,
            "segments": [
                {"id": number, "start": segment.start, "end": segment.end, "text": segment.text}
                for number, segment in enumerate(transcript.segments)
            ],
            "words": [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in transcript.words],
        }
    return Response(json.dumps(facts, ensure_ascii=False), media_type="application/json")
