"""What a blob's URI means, and whether the app allows it. Pure: nothing here looks at a disk or a network.

A URI comes with an event, from whoever could publish one. It has to begin with a prefix that the app allows, and what
follows has to be a plain path. Nothing is decoded, so that nothing can mean one thing here and another where it is
opened: what is written with `%` is refused, and so are queries, fragments, backslashes, wildcards, chains of file
systems (`::`), and the steps `.` and `..`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from streamtask.errors import BlobRefusedError
from streamtask.redact import mask_url

#: What URIs of blobs in the app's own broker begin with. There is no host in them: they never lead to another.
SHARED = "redis:///"

#: The longest name that is kept as it is, and the longest URI that is looked at, in characters.
_LONGEST_NAME = 200
_LONGEST_URI = 2000
#: Characters of a refused URI that an error shows.
_SHOWN = 120
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_UNUSUAL = re.compile(r"[^A-Za-z0-9_.-]")
#: What no URI holds, and why.
_FORBIDDEN = {
    "%": "it is percent-encoded",
    "?": "it has a query",
    "#": "it has a fragment",
    "\\": "it has a backslash",
    "*": "it has a wildcard",
    "::": "it is a chain of file systems",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob is."""

    #: One of the allowed ones.
    prefix: str
    #: What follows it.
    name: str


def clean_name(name: str) -> str:
    """A name that is one in every store: itself where it is plain, else what is left of it behind a hash of it.

    Plain are letters, digits, `_`, `.`, `-`, and `/` between folders, none of which begins with a dot or a dash.
    """
    if not name:
        raise ValueError("a blob has a name")
    if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name):
        return name
    known_by = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    left = _UNUSUAL.sub("-", name[-_LONGEST_NAME // 2 :]).lstrip(".-")
    return f"{known_by}-{left}"


def trouble_in(text: str) -> str:
    """What stands in a URI, or a part of one, that none may hold; empty if nothing does."""
    if not text.isprintable():
        return "it has characters that cannot be printed"
    return next((why for what, why in _FORBIDDEN.items() if what in text), "")


def place_of(uri: str, prefixes: Collection[str]) -> Place:
    """Where the blob of a URI is. `prefixes`: those that the app allows; each ends with a slash.

    Raises:
        BlobRefusedError: the app does not allow it.
    """
    prefix = next((each for each in prefixes if uri.startswith(each)), "")
    name = uri[len(prefix) :]
    trouble = _trouble_of(uri, name) if prefix else "it is in no store that this app allows"
    if not trouble and prefix == SHARED and not (len(name) <= _LONGEST_NAME and _NAME.fullmatch(name)):
        trouble = "it is no name of a blob"
    if trouble:
        allowed = ", ".join(f"{each}..." for each in prefixes)
        raise BlobRefusedError(f"the blob {_shown(uri)} is refused: {trouble}; nothing was read. Allowed: {allowed}")
    return Place(prefix, name)


def _trouble_of(uri: str, name: str) -> str:
    if len(uri) > _LONGEST_URI:
        return "it is too long"
    steps = name.split("/")
    if "" in steps:
        return "it has an empty step"
    return trouble_in(uri) or ("it has a step `.` or `..`" if {".", ".."} & {*steps} else "")


def _shown(uri: str) -> str:
    shown = ascii(mask_url(uri[:_LONGEST_URI]))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
