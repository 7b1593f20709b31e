"""Reading the annotations of users' functions as types. Judges none of them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

from streamtask.errors import ConfigurationError


def hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The annotations of a function as types, `Annotated` kept. Raises ConfigurationError, naming it."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        # An annotation of a class that is local to a function: read what can be read.
        hints = getattr(function, "__annotations__", {})
        if any(isinstance(hint, str) for hint in hints.values()):
            scope = {**inspect.getclosurevars(function).nonlocals, **function.__globals__}
            try:
                return {key: eval(hint, scope) if isinstance(hint, str) else hint for key, hint in hints.items()}  # noqa: S307 - the program's own annotations
            except NameError:
                raise ConfigurationError(f"{name}: an annotation cannot be read: {error}") from error
        return dict(hints)


def plain(hint: Any) -> Any:
    """An annotation without what `Annotated` adds to it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
