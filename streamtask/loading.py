"""`module:attribute` → the app it names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from streamtask.app import App
from streamtask.errors import ConfigurationError


def load_app(reference: str, *, broker: str | None = None) -> App:
    """Import an app; the current folder is importable, as with `python -m`.

    Raises:
        ConfigurationError: there is no such module or attribute, or it is no App; the message says which.
    """
    name, colon, attribute = reference.partition(":")
    if not colon or not name or not attribute:
        raise ConfigurationError(f"-A takes module:attribute, for example shop.events:app; got {reference!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"there is no module {name!r} here ({folder}) or installed") from error
        raise ConfigurationError(f"importing {name} failed: {error}") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else ""
        raise ConfigurationError(f"{name} has no App called {attribute!r}{hint}")
    if broker:
        app.use_broker(broker)
    return app
