"""The API: audio in over HTTP and sockets, words and translations out, live. `create_app` makes it."""

from __future__ import annotations

from streamtask_contrib.api.application import create_app
from streamtask_contrib.api.settings import ApiSettings

__all__ = ["ApiSettings", "create_app"]
