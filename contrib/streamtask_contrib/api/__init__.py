"""The API: audio in over HTTP and sockets, words and translations out, live.

    uvicorn --factory streamtask_contrib.api:create_app

Needs the extra `api`; it runs where no model is.
"""

from __future__ import annotations

from streamtask_contrib.extras import require

require("api", "fastapi", "multipart", "pydantic_settings", "websockets")

from streamtask_contrib.api.application import create_app  # noqa: E402 - what is missing is said before it is missed
from streamtask_contrib.api.settings import ApiSettings  # noqa: E402

__all__ = ["ApiSettings", "create_app"]
