"""Differences of two configurations: which keys, and a line for each that people can read. Secrets are named only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from streamtask_contrib.config_sync.documents import canonical, dotted
from streamtask_contrib.config_sync.redaction import redacted, secrets

#: Characters of all names that are listed, and of a value that is shown: a difference has to fit into an event.
MAX_NAMES: Final = 100_000
MAX_SHOWN: Final = 200

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs; nothing, where both are the same."""

    #: Dotted names, in order.
    changed_keys: list[str]
    #: For people: "+ name: new", "- name: old", "~ name: old → new", a line a key.
    text: str


def difference(old: Mapping[str, Any], new: Mapping[str, Any], *, patterns: Sequence[str] = ()) -> Difference:
    """What of `new` differs from `old`. `patterns`: as for `redacted`."""
    known, named = secrets(old, patterns), secrets(new, patterns)
    # Of two secrets is known here which they are: a whole one that differs has to be found, and not shown.
    differing = {name for name in known.keys() & named.keys() if canonical(known[name]) != canonical(named[name])}
    return compared(redacted(old, patterns), redacted(new, patterns), differing)


def compared(old: Mapping[str, Any], new: Mapping[str, Any], differing: set[str]) -> Difference:
    """The same of values that are redacted. `differing`: names of secrets that both have, and that are not the same."""
    lines: dict[str, str] = {}
    for path, before, after in _changes(old, new, ()):
        lines[dotted(path)] = _line(dotted(path), before, after)
    for name in differing - lines.keys():
        lines[name] = f"~ {name}: a secret that differs"
    keys = sorted(lines)
    lengths = accumulate(map(len, keys))
    named = [name for name, length in zip(keys, lengths, strict=True) if length <= MAX_NAMES]
    more = [f"… and {len(keys) - len(named)} more"] if len(named) < len(keys) else []
    return Difference(named, "\n".join([lines[name] for name in named] + more))


def _changes(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Path, old and new value of whatever differs; mappings and lists are gone into where both sides have one."""
    if old is not _NOTHING and new is not _NOTHING and canonical(old) == canonical(new):
        return
    match old, new:
        case (dict(), dict()) | (list(), list()):
            before, after = _parts(old), _parts(new)
            for key in before | after:
                yield from _changes(before.get(key, _NOTHING), after.get(key, _NOTHING), (*path, key))
        case _:
            yield path, old, new


def _parts(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {str(place): each for place, each in enumerate(value)}


def _line(name: str, old: Any, new: Any) -> str:
    if old is _NOTHING:
        return f"+ {name}: {_shown(new)}"
    if new is _NOTHING:
        return f"- {name}: {_shown(old)}"
    return f"~ {name}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
