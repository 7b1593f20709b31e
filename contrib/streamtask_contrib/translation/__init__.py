"""Translation of what was said: `streamtask worker -A streamtask_contrib.translation:app`, or `router` in an app.

Needs the extra `translation`. Importing this package loads no model; a worker process does when it starts.
"""

from __future__ import annotations

from streamtask_contrib.extras import require

require("translation", "ctranslate2", "pydantic_settings", "sentencepiece")

from streamtask import App  # noqa: E402 - what is missing is said before it is missed
from streamtask_contrib.reporting import router as reporting  # noqa: E402
from streamtask_contrib.settings import blob_stores, from_environment  # noqa: E402
from streamtask_contrib.translation.settings import TranslationSettings  # noqa: E402
from streamtask_contrib.translation.worker import router  # noqa: E402

__all__ = ["TranslationSettings", "app", "router"]


def __getattr__(name: str) -> App:
    # Made when it is asked for: importing this package reads no environment and opens nothing.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = App("translation", blobs=blob_stores())
    app.include(router(from_environment(TranslationSettings)))
    app.include(reporting(app.name))
    globals()["app"] = app
    return app
