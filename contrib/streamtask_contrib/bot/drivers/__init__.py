"""Ways into meetings, found by name: other packages bring theirs by the entry points `streamtask.bot_drivers`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast

from streamtask import ConfigurationError
from streamtask_contrib.bot.drivers.port import DriverFactory, JoinError

_GROUP = "streamtask.bot_drivers"


def find(name: str) -> DriverFactory:
    """The driver of this name; only that one is imported. Raises `JoinError` where it cannot be had."""
    found = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise JoinError("unknown_driver", f"there is no driver {name!r}; installed are: {known}")
    try:
        return cast(DriverFactory, found[name].load())
    except (ImportError, AttributeError, ConfigurationError) as error:
        raise JoinError("driver_unavailable", f"the driver {name!r} cannot be loaded: {error}") from error
