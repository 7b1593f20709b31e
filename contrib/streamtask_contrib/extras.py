"""What an extra brings has to be there: asked at the top of a package, answered with the line that installs it."""

from __future__ import annotations

from importlib.util import find_spec

from streamtask import ConfigurationError


class MissingExtraError(ConfigurationError, ImportError):
    """A package that is optional for streamtask is needed here, and not installed."""


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra can be imported; nothing is imported.

    Raises:
        MissingExtraError: one is missing; the message has the command that installs the extra.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)} is not installed; in a checkout of streamtask: pip install '.[{extra}]'"
        )
