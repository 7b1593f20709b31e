"""`module:attribute` → the app, or what else it names; an event type → its class."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from streamtask.app import App
from streamtask.errors import ConfigurationError
from streamtask.event import Event, EventType, describe


def load_app(reference: str, *, broker: str | None = None) -> App:
    """Import an app; the current folder is importable, as with `python -m`.

    Raises:
        ConfigurationError: there is no such module or attribute, or it is no App; the message says which.
    """
    module, app = load(reference)
    if not isinstance(app, App):
        name, _, attribute = reference.partition(":")
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(f'{name}:{key}' for key in apps)}" if apps else ""
        raise ConfigurationError(f"{name} has no App called {attribute!r}{hint}")
    if broker:
        app.use_broker(broker)
    return app


def load(reference: str) -> tuple[ModuleType, object]:
    """Import a module and what it has under a name; None where it has nothing there.

    Raises:
        ConfigurationError: there is no such module, or it cannot be imported.
    """
    name, colon, attribute = reference.partition(":")
    if not colon or not name or name.startswith(".") or not attribute:
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
    return module, getattr(module, attribute, None)


def event_class(app: App, type_: str) -> type[Event]:
    """The event class of a type: one that the app handles or has published, else one that its modules define.

    Raises:
        ConfigurationError: there is none, or there are two; the message says which there are.
    """
    known = app.broker.catalog.types.get(type_)
    if known is not None:
        return known
    defined = [cls for cls in _defined(Event) if describe(cls).type == type_]
    if len(defined) > 1:
        names = " and ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in defined)
        raise ConfigurationError(f"two event classes have the type {type_!r}: {names}")
    if not defined:
        types = sorted(app.broker.catalog.types.keys() | {describe(cls).type for cls in _defined(Event)})
        raise ConfigurationError(f"there is no event type {type_!r}; there are {', '.join(types) or 'none'}")
    return defined[0]


def _defined(base: type[Event]) -> list[type[Event]]:
    """Every event class below a class that has a stream."""
    found: list[type[Event]] = []
    for cls in base.__subclasses__():
        # Its own: a class whose declaration was refused has none, and is there until it is collected.
        declared: EventType | None = vars(cls).get("__event_type__")
        if declared is not None and declared.stream:
            found.append(cls)
        found += _defined(cls)
    return found
