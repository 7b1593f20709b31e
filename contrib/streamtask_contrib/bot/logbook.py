"""The log of a bot's process: one JSON object a line, with no secret in it, for whoever has to know at 3 a.m. why.

What was resolved is struck out of everything that goes through logging, wherever it stands: message, fields, traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

_STRUCK = "***"
#: A shorter one would be found in every other word.
_SHORTEST = 4
#: What every record has; all else came in as `extra`.
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Secrets:
    """What must not be told."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, secret: SecretStr) -> None:
        """Tell it no more, also as it stands in an address or within quotes."""
        text = secret.get_secret_value()
        if len(text) >= _SHORTEST:
            quoted = {repr(text)[1:-1], json.dumps(text)[1:-1]}
            forms = {text, quote(text), quote(text, safe=""), quote_plus(text)} | quoted
            # The longest first: one may be part of another.
            self._texts = sorted({*self._texts, *forms}, key=len, reverse=True)

    def strike(self, text: str) -> str:
        """The text without them."""
        for secret in self._texts:
            text = text.replace(secret, _STRUCK)
        return text


class Logbook(logging.Formatter):
    """Writes records as lines of JSON: `ts`, `level`, `event`, then the fields; a traceback is one string."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"ts": moment, "level": record.levelname, "event": record.getMessage()}
        line |= {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
        if not record.name.startswith("streamtask"):
            line["logger"] = record.name
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: self._told(value) for name, value in line.items()}, ensure_ascii=False)

    def _told(self, value: object) -> object:
        # Numbers and the like have no secret in them that anybody could have put there.
        return value if value is None or isinstance(value, (bool, int, float)) else self._secrets.strike(str(value))


def configure(secrets: Secrets) -> None:
    """Send what is logged in this process to standard error, and warnings, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logbook(secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
