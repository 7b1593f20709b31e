"""Documents: bytes in one of three forms → values, and values → canonical JSON. Pure.

Values are what JSON has: text, numbers, truth, nothing, lists, and mappings whose keys are text; what no service should
run with is refused. An error says where the trouble is and never what stands there: it may be a password.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from importlib import import_module
from typing import Any, Final, Literal

from streamtask import StreamtaskError

#: How a document is written.
Form = Literal["yaml", "toml", "json"]

#: The largest document, in bytes: its snapshot has to fit into an event.
MAX_BYTES: Final = 128 * 1024
#: Values in a document, of all levels together.
MAX_VALUES: Final = 5_000
#: Levels of a document.
MAX_DEPTH: Final = 20
#: Characters of a key.
MAX_KEY: Final = 200

#: Form of a file, by the end of its name.
FORMS: Final[Mapping[str, Form]] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

_PLACE = re.compile(r"\(at (line \d+, column \d+|end of document)\)")
_INTEGERS = range(-(2**63), 2**64)


class DocumentError(StreamtaskError):
    """These bytes are no configuration. The message says where and why, and shows nothing of them."""


def parse(content: bytes, form: Form) -> dict[str, Any]:
    """The values of a document.

    Raises:
        DocumentError: it is broken, or more than a configuration may be.
    """
    if len(content) > MAX_BYTES:
        raise DocumentError(f"it has more than {MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"byte {error.start} is not UTF-8") from None
    try:
        values = _READERS[form](text)
    except RecursionError:
        raise DocumentError(f"it has more than {MAX_DEPTH} levels") from None
    if values is None:
        # An editor that writes in place empties the file first. `{}` says that nothing is meant.
        raise DocumentError("it is empty")
    if not isinstance(values, dict):
        raise DocumentError("it has no keys at its top level")
    return _Checked().mapping(values, depth=1)


def canonical(value: object) -> str:
    """A value as JSON in the one way in which it is compared: keys in order, no white space, nothing escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dotted(path: tuple[str, ...]) -> str:
    """The name of a value: its keys with dots between them; a key with other characters stands in quotes."""
    return ".".join(key if re.fullmatch(r"[\w-]+", key) else json.dumps(key, ensure_ascii=False) for key in path)


# ── forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        if not text.strip():
            return None
        raise DocumentError(f"line {error.lineno}, column {error.colno} is not JSON") from None
    except ValueError:
        # Python reads no number of more than 4,300 digits.
        raise DocumentError("a number in it is too large") from None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DocumentError("a key in it stands twice")
    return found


def _no_number(_: str) -> object:
    raise DocumentError("NaN and infinity are no numbers of a configuration")


def _toml(text: str) -> object:
    try:
        return tomllib.loads(text) if text.strip() else None
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        raise DocumentError(f"{place[1] if place else 'it'} is not TOML") from None
    except ValueError:
        raise DocumentError("a number or a date in it is out of range") from None


def _yaml(text: str) -> object:
    # Only who has a YAML file needs the package; who reads versions of it needs it as well.
    try:
        reading = import_module("streamtask_contrib.config_sync.yaml_documents")
    except ImportError:
        raise DocumentError(
            "it is YAML, and PyYAML is not installed; in a checkout of streamtask: pip install '.[yaml]'"
        ) from None
    try:
        return reading.load(text, MAX_DEPTH, MAX_VALUES)
    except reading.YamlError as error:
        raise DocumentError(str(error)) from None


_READERS: Final = {"json": _json, "toml": _toml, "yaml": _yaml}


# ── what all forms have in common ─────────────────────────────────────────────────────────────────────────────────


class _Checked:
    """Copies values of one document, and refuses what is no configuration."""

    def __init__(self) -> None:
        self._seen = 0

    def mapping(self, values: Mapping[Any, Any], *, depth: int) -> dict[str, Any]:
        return dict(self._entries(values, depth))

    def _entries(self, values: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if not isinstance(key, str):
                # YAML's `on:` and `80:`, which the next reader takes for something else.
                raise DocumentError("a key in it is no text: put it in quotes")
            if not 0 < len(key) <= MAX_KEY or not key.isprintable():
                raise DocumentError(f"a key in it is empty, longer than {MAX_KEY} characters, or cannot be printed")
            yield key, self._value(value, depth + 1)

    def _value(self, value: Any, depth: int) -> Any:
        self._seen += 1
        if self._seen > MAX_VALUES:
            raise DocumentError(f"it has more than {MAX_VALUES} values")
        if depth > MAX_DEPTH and isinstance(value, dict | list):
            raise DocumentError(f"it has more than {MAX_DEPTH} levels")
        match value:
            case dict():
                return self.mapping(value, depth=depth)
            case list():
                return [self._value(each, depth + 1) for each in value]
            case None | bool():
                return value
            case str() | int() | float():
                return _scalar(value)
            case datetime() | date() | time():
                return value.isoformat()
        raise DocumentError(f"a value in it is of a kind that a configuration has not: {type(value).__name__}")


def _scalar(value: str | float) -> str | float:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DocumentError("a text in it has half of a character") from None
    elif not math.isfinite(value):
        raise DocumentError("NaN and infinity are no numbers of a configuration")
    elif isinstance(value, int) and value not in _INTEGERS:
        raise DocumentError("a number in it has more than 64 bits")
    return value
