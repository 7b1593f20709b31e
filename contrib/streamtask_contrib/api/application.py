"""The API as an ASGI application: `uvicorn --factory streamtask_contrib.api:create_app`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from streamtask import App, BlobTooLargeError, StreamtaskError
from streamtask_contrib.api import bots, configuration, events, health, live, openai, sessions, uploads
from streamtask_contrib.api.keys import Guard, SeatsTakenError
from streamtask_contrib.api.service import Service
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.capture.register import SessionTakenError
from streamtask_contrib.duties import running
from streamtask_contrib.reporting import Reporter
from streamtask_contrib.settings import blob_stores, from_environment
from streamtask_contrib.transcript import router as transcripts

log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"
#: The page is all from here: nothing of it may come from, or talk to, anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DESCRIPTION = "Audio in, words and translations out, live. See the how-to on the speech API."


def create_app(settings: ApiSettings | None = None, *, broker: str | None = None) -> FastAPI:
    """The API. `settings`: by default from the environment. `broker`: a URL; by default as every app's."""
    settings = settings or from_environment(ApiSettings)
    app = App("orchestration-api", broker=broker, blobs=blob_stores())
    if settings.keep_transcripts:
        app.include(transcripts(ttl=settings.session_ttl))
    service = Service.of(settings, app)
    health.measure(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app)
            if settings.keep_transcripts:
                await stack.enter_async_context(app.worker())
            await stack.enter_async_context(Reporter(app, app.name, without_worker=True).running())
            duties = (service.hub.run(), service.statuses.run(), service.pressure.run())
            await stack.enter_async_context(running(*duties, ended="api.duty_ended"))
            yield

    api = FastAPI(title="Speech", description=_DESCRIPTION, lifespan=lifespan)
    api.state.service = service
    api.add_middleware(Guard, keys=service.keys, max_upload=settings.max_upload_bytes)
    for module in (uploads, live, openai, events, sessions, bots, configuration, health):
        api.include_router(module.router)
    _answer_errors(api)
    _serve_page(api)
    return api


def _answer_errors(api: FastAPI) -> None:
    """What endpoints raise that is not HTTP's."""

    @api.exception_handler(StreamtaskError)
    async def broker_away(_: Request, error: StreamtaskError) -> JSONResponse:
        if isinstance(error, BlobTooLargeError):
            return JSONResponse({"detail": str(error)}, 413)
        log.warning("api.broker_away", extra={"error": str(error)})
        detail = "the broker cannot be reached; send the same request again: nothing is done twice"
        return JSONResponse({"detail": detail}, 503, {"Retry-After": "5"})

    @api.exception_handler(SessionTakenError)
    async def taken(_: Request, error: SessionTakenError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @api.exception_handler(SeatsTakenError)
    async def full(_: Request, error: SeatsTakenError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": "5"})


def _serve_page(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return FileResponse(_PAGE / "index.html", headers=headers | {"Cache-Control": "no-cache"})

    api.mount("/page", StaticFiles(directory=_PAGE), name="page")
