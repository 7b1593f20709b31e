"""Translation of what was said: `streamtask worker -A streamtask_contrib.translation:app`, or `router` in an app.

Needs the extra `translation`. Importing this package loads no model; a worker process does when it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamtask_contrib.extras import require

require("translation", "ctranslate2", "pydantic_settings", "sentencepiece")

from streamtask_contrib.translation.settings import TranslationSettings  # noqa: E402 - asked for above
from streamtask_contrib.translation.worker import make_app, router  # noqa: E402 - as above

if TYPE_CHECKING:
    from streamtask import App

    app: App

__all__ = ["TranslationSettings", "app", "router"]


def __getattr__(name: str) -> object:
    """Make `app` when it is asked for: who only wants the router needs no settings in the environment."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()["app"] = make_app()
    return made
