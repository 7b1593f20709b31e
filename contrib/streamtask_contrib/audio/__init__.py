"""Audio in, words out: the worker of the group `audio-pipeline`.

    streamtask worker -A streamtask_contrib.audio:app

`router(settings)` is what it consists of, for an app of your own.
"""

from __future__ import annotations

from streamtask_contrib.extras import require

require("audio", "faster_whisper", "numpy", "pydantic_settings")

from streamtask import App  # noqa: E402 - what is missing is said before it is missed
from streamtask_contrib.audio.settings import AudioSettings  # noqa: E402
from streamtask_contrib.audio.worker import router  # noqa: E402
from streamtask_contrib.reporting import router as reporting  # noqa: E402
from streamtask_contrib.settings import blob_stores, from_environment  # noqa: E402
from streamtask_contrib.transcript import worker as transcripts  # noqa: E402

__all__ = ["AudioSettings", "app", "router"]


def __getattr__(name: str) -> App:
    # Made when it is asked for: importing this package reads no environment and opens nothing.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = App("audio-pipeline", blobs=blob_stores())
    app.include(router(from_environment(AudioSettings)))
    # Whoever transcribes keeps the transcripts, too: it costs nothing beside a model.
    app.include(transcripts.router())
    app.include(reporting(app.name))
    globals()["app"] = app
    return app
