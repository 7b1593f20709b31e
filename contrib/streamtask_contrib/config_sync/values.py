"""Values of a configuration as a service reads them: `values["audio.model"]`, `values.audio.model`.

They never change: a change is another object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Values(Mapping[str, Any]):
    """A mapping whose mappings are such ones, too."""

    __slots__ = ("_plain",)

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._plain = dict(plain)

    def __getitem__(self, name: str) -> Any:
        if name in self._plain:
            return _wrapped(self._plain[name])
        first, dot, rest = name.partition(".")
        inner = _wrapped(self._plain[first]) if dot and first in self._plain else None
        if isinstance(inner, Values) and rest in inner:
            return inner[rest]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        try:
            self[name]  # type: ignore[index] # what is no text is in no mapping
        except (KeyError, AttributeError):
            return False
        return True

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def __repr__(self) -> str:
        # In a traceback or a log there must be no secret.
        return f"Values({', '.join(self._plain)})"

    def plain(self) -> dict[str, Any]:
        """The values as dicts and lists, secrets and all."""
        return dict(self._plain)


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others in the place of some, which are named with dots."""
    result = dict(values)
    for name, value in changes.items():
        first, dot, rest = name.partition(".")
        if name in result or not dot:
            result[name] = value
        else:
            inner = result.get(first)
            result[first] = overridden(inner if isinstance(inner, dict) else {}, {rest: value})
    return result


def _wrapped(value: Any) -> Any:
    return Values(value) if isinstance(value, dict) else value
