"""Bots in meetings, and the worker of the group `bot-orchestrator` that looks after their processes.

    streamtask worker -A streamtask_contrib.bot:app

`streamtask_contrib.bot.worker.router(settings)` is what it consists of, for an app of your own. What is written down of
bots (`registry`, `states`) is read by others, too, where no bot could run: importing this package asks for nothing.
"""

from __future__ import annotations

from streamtask import App
from streamtask_contrib.extras import require


def __getattr__(name: str) -> App:
    # Made when it is asked for: importing this package reads no environment and opens nothing.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("bot", "psutil", "pydantic_settings")
    from streamtask_contrib.bot.settings import BotSettings  # noqa: PLC0415 - what is missing is said before it is missed
    from streamtask_contrib.bot.worker import router  # noqa: PLC0415 - as above
    from streamtask_contrib.reporting import router as reporting  # noqa: PLC0415 - as above
    from streamtask_contrib.settings import blob_stores, from_environment  # noqa: PLC0415 - as above

    app = App("bot-orchestrator", blobs=blob_stores())
    app.include(router(from_environment(BotSettings)))
    app.include(reporting(app.name))
    globals()["app"] = app
    return app
