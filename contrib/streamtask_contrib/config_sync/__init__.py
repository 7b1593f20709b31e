"""Configuration that services follow: `Follower` for the services, and the worker of the group `config-sync`.

    streamtask worker -A streamtask_contrib.config_sync:app

`router(settings)` is what the worker consists of, for an app of your own. Importing this package needs nothing that is
optional; the worker does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from streamtask import App
from streamtask_contrib.config_sync.following import Follower
from streamtask_contrib.extras import require

__all__ = ["ConfigSettings", "Follower", "app", "router"]

_WHERE = {
    "ConfigSettings": "streamtask_contrib.config_sync.settings",
    "router": "streamtask_contrib.config_sync.worker",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("config", "pydantic_settings")
    found = _app() if name == "app" else getattr(import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def _app() -> App:
    # Made when it is asked for: importing this package reads no environment and opens nothing.
    settings = import_module("streamtask_contrib.config_sync.settings").ConfigSettings
    environment = import_module("streamtask_contrib.settings")
    made = App("config-sync")
    made.include(import_module(_WHERE["router"]).router(environment.from_environment(settings)))
    made.include(import_module("streamtask_contrib.reporting").router(made.name))
    return made
