"""Log lines, in the form of the workers' own (`telemetry/logs.py`)."""

from __future__ import annotations

import json
import logging
import time


class LineFormatter(logging.Formatter):
    """Writes one record as one line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._known = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as one line."""
        fields = {name: value for name, value in record.__dict__.items() if name not in self._known and value != ""}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        millis = f"{int(record.msecs):03d}"
        if self._as_json:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{millis}Z"
            head = {"ts": moment, "level": record.levelname, "logger": record.name, "event": record.getMessage()}
            return json.dumps(head | fields, default=str)
        moment = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{millis}"
        words = [moment, record.levelname, _printable(record.getMessage())]
        return " ".join(words + [f"{name}={_word(str(value))}" for name, value in fields.items()])


def _word(text: str) -> str:
    plain = text and not any(letter.isspace() or letter in '"=\\' for letter in text)
    return _printable(text) if plain else '"' + _printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
