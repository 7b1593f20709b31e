"""Log lines: an event name and fields, as text for people or as JSON for machines.

    log.warning("lease.lost", extra={"stream": stream, "entry_id": entry_id})

While a handler runs, what it handles is bound in a context variable, and our formatters add it to every line that any
logger writes meanwhile. A line is one line whatever stands in it, and passwords in URLs are masked. This module never
configures logging by itself: `configure` is for the command line; who embeds streamtask keeps their own set-up.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol, TextIO

from streamtask.errors import ConfigurationError
from streamtask.redact import mask_text
from streamtask.unprintable import UNPRINTABLE

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]

#: Characters of one field; what is longer loses its middle (a traceback says most at both ends).
FIELD_LIMIT = 8_192

#: Containers within containers beyond this many are written as text: a field may refer to itself.
_DEPTH = 4

_SURROGATE = re.compile("[\ud800-\udfff]")
#: A value that is not one plain word is quoted, so that it cannot pass for a field of its own.
_NOT_A_WORD = re.compile(r'[\s"=\\]|' + UNPRINTABLE.pattern)

#: What every record has; all else on a record came in as `extra`. `taskName` is there from Python 3.12 on.
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: Keys of a JSON line that are ours.
_OF_EVERY_LINE = frozenset({"ts", "level", "logger", "event", "exception", "stack"})


# ── what is being handled ─────────────────────────────────────────────────────────────────────────────────────────


class Bound(NamedTuple):
    """What the running handler handles: the fields that every line of it carries."""

    event_id: str
    event_type: str
    trace_id: str
    attempt: int
    stream: str
    group: str


class HasIds(Protocol):
    """What an envelope has, named by shape because that layer is above this one."""

    @property
    def event_id(self) -> str:
        """Of the event."""

    @property
    def event_type(self) -> str:
        """Of the event."""

    @property
    def trace_id(self) -> str:
        """Of what it is a part of."""


class HasPlace(Protocol):
    """The same of a delivery."""

    @property
    def stream(self) -> str:
        """Short name."""

    @property
    def group(self) -> str:
        """That handles it."""

    @property
    def attempt(self) -> int:
        """From 1."""


# As it came: few deliveries log anything, and what they would say is looked up when they do.
_Binding = tuple[HasIds, HasPlace]
_bound: ContextVar[_Binding | None] = ContextVar("streamtask_bound", default=None)


#: Say what this task (or thread) handles from now on; None: nothing. The token undoes it with `unbind`. Called for each
#: delivery.
bind: Final[Callable[[_Binding | None], Token[_Binding | None]]] = _bound.set


def unbind(token: Token[_Binding | None]) -> None:
    """Undo a `bind` of the same context."""
    _bound.reset(token)


def current() -> Bound | None:
    """What is bound here, or None outside a handler."""
    binding = _bound.get()
    if binding is None:
        return None
    envelope, delivery = binding
    return Bound(
        envelope.event_id, envelope.event_type, envelope.trace_id, delivery.attempt, delivery.stream, delivery.group
    )


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """`ctx.log`: puts the bound fields on the records themselves, so that any formatter and any thread has them.

    A field whose name logging keeps for itself (`name`, `args`, `message`...) is written as `extra_name`: a log line
    must not make a handler fail.
    """

    def __init__(self, logger: logging.Logger, bound: Bound | None = None) -> None:
        bound = current() if bound is None else bound
        super().__init__(logger, {} if bound is None else bound._asdict())

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge the bound fields and the line's own, which win."""
        fields = dict(self.extra or {})
        for name, value in (kwargs.get("extra") or {}).items():
            fields[f"extra_{name}" if name in _OF_EVERY_RECORD else name] = value
        kwargs["extra"] = fields
        return msg, kwargs


class ContextFilter(logging.Filter):
    """For a user's own handlers: `%(event_id)s` and the other bound fields on every record; "" outside a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete the record; let every record pass."""
        bound = current()
        for index, name in enumerate(Bound._fields):
            if not hasattr(record, name):
                setattr(record, name, "" if bound is None else bound[index])
        return True


# ── one event, one line ───────────────────────────────────────────────────────────────────────────────────────────


class TextFormatter(logging.Formatter):
    """`12:34:56.789 WARNING lease.lost stream=orders entry_id=1700-0 event_id=... trace_id=...`, in local time.

    Tracebacks follow on indented lines, so that no text in them can pass for a line of the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        parts = [
            moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}",
            record.levelname,
            _printable(_shortened(record.getMessage())),
        ]
        parts += [f"{_word(name)}={_word(_text(value))}" for name, value in _fields(record).items()]
        if record.name != "root" and record.name.partition(".")[0] != "streamtask":
            parts.append(f"logger={_word(record.name)}")
        lines = [" ".join(parts)]
        for block in _evidence(self, record).values():
            lines += ["    " + _printable(line) for line in block.split("\n")]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts` (UTC), `level`, `logger`, `event`, then the fields; a traceback is one string."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": masked(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line[f"extra_{name}" if name in _OF_EVERY_LINE else _shortened(name)] = masked(value)
        line |= _evidence(self, record)
        return json.dumps(line)


def masked(value: object, *, depth: int = 0) -> object:
    """`value` as JSON can hold it, without secrets: strings masked, other objects as their text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _DEPTH and isinstance(value, Mapping):
        return {_shortened(str(name)): masked(inner, depth=depth + 1) for name, inner in value.items()}
    if depth < _DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [masked(inner, depth=depth + 1) for inner in value]
    return _text(value)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The extra fields of a record, then what is bound here; the record's own win."""
    fields = {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
    bound = current()
    for index, name in enumerate(Bound._fields):
        if bound is not None:
            fields.setdefault(name, bound[index])
        if fields.get(name) == "":
            del fields[name]
    return fields


def _evidence(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """The traceback and the stack of a record, where it has them, masked."""
    evidence = {}
    if record.exc_info and record.exc_info[0] is not None:
        evidence["exception"] = _shortened(formatter.formatException(record.exc_info))
    elif record.exc_text:
        evidence["exception"] = _shortened(record.exc_text)
    if record.stack_info:
        evidence["stack"] = _shortened(formatter.formatStack(record.stack_info))
    return evidence


def _text(value: object) -> str:
    """A field's value as text, masked and bounded."""
    if isinstance(value, bytes):
        return _shortened(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, BaseException):
        return _shortened(f"{type(value).__name__}: {value}")
    return _shortened(str(value))


def _shortened(text: str) -> str:
    """Mask secrets first (a cut URL might no longer look like one), then bound the length."""
    if "://" in text:
        text = mask_text(text)
    if not text.isascii():
        text = _SURROGATE.sub(_escaped, text)
    if len(text) > FIELD_LIMIT:
        half = FIELD_LIMIT // 2
        text = f"{text[:half]} ...{len(text) - 2 * half} characters... {text[-half:]}"
    return text


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else UNPRINTABLE.sub(_escaped, text)


def _word(text: str) -> str:
    if text and _NOT_A_WORD.search(text) is None:
        return text
    inner = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(inner)}"'


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


# ── the command line's set-up ─────────────────────────────────────────────────────────────────────────────────────


class LogHandler(logging.StreamHandler[TextIO]):
    """What `configure` installs: a class of its own, so that a second call finds and replaces it.

    A log that cannot be written, because its disk is full or its reader is gone, stops nobody: lines are left out until
    it can be again, and then it is said that there were some.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, as far as that is possible."""
        before = self._left_out
        super().emit(record)
        if before and before == self._left_out:
            self._left_out = 0
            log.warning("log.works_again", extra={"left_out": before})

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        """Count a line that could not be written; what is wrong with a line itself is shown, as ever."""
        if isinstance(sys.exc_info()[1], OSError):
            self._left_out += 1
        else:
            super().handleError(record)


def configure(
    format: LogFormat = "text",
    level: int | str = logging.INFO,
    stream: TextIO | None = None,
) -> logging.Handler | None:
    """Send every logger's lines of `level` and above to `stream` (standard error); for the command line only.

    One handler, on the root logger: streamtask's lines and the user's own go the same way, once. Called before the
    user's module is imported, it makes that module's `basicConfig` a no-op, while an explicit set-up there replaces it.
    Where the root logger or `streamtask` has handlers already, those are the user's: nothing is touched and the answer
    is None.
    """
    number = _level_number(level)
    if format not in ("text", "json"):
        raise ConfigurationError(f"unknown log format {format!r}; known are text and json")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LogHandler)]:
        root.removeHandler(handler)
    present = root.handlers + logging.getLogger("streamtask").handlers
    if any(not isinstance(handler, logging.NullHandler) for handler in present):
        return None
    installed = LogHandler(sys.stderr if stream is None else stream)
    installed.setFormatter(TextFormatter() if format == "text" else JsonFormatter())
    root.addHandler(installed)
    root.setLevel(number)
    return installed


def let_go() -> None:
    """Flush standard output and error at the end of a process, or do without.

    Python ends with 120 where what it still has for either cannot be written, whatever the process has come to.
    """
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except OSError:
            setattr(sys, name, None)


def configured_format() -> LogFormat | None:
    """The format that `configure` installed; None where logging is the user's own."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers if isinstance(handler, LogHandler)]
    if not formatters:
        return None
    return "json" if isinstance(formatters[0], JsonFormatter) else "text"


def _level_number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    known = logging.getLevelNamesMapping()
    if level.upper() not in known:
        raise ConfigurationError(f"unknown log level {level!r}; known are {', '.join(known).lower()}")
    return known[level.upper()]
