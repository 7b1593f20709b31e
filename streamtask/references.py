"""How people name things: streams, entries, dead letters, moments. Pure: it reads no clock and asks no server.

What cannot be such a name is a `ConfigurationError` that says what one looks like. Whether there is such a thing only
the server knows; that is asked elsewhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from streamtask.errors import ConfigurationError

_PREFIX = "stream:"
_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
#: An id without its second half. Fewer digits are a date: 20241019.
_MILLISECONDS = re.compile(r"0|[0-9]{12,20}")
_DURATION = re.compile(r"(?:[0-9]{1,20}(?:\.[0-9]{1,20})?[smhdw])+")
_PART = re.compile(r"([0-9.]{1,41})([smhdw])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LARGEST = 2**64 - 1
#: Clocks differ: a moment that is this little ahead of ours is taken for now.
_AHEAD = timedelta(seconds=60)


class EntryReference(NamedTuple):
    """One entry of one stream."""

    stream: str
    entry_id: str


class DeadLetterReference(NamedTuple):
    """One dead letter: its id is that of its entry in the dead-letter stream."""

    stream: str
    group: str
    dead_id: str

    def __str__(self) -> str:
        return f"{self.stream}/{self.group}/{self.dead_id}"


def stream_name(text: str) -> str:
    """The short name of a stream, given with or without the prefix `stream:`."""
    name = text.removeprefix(_PREFIX)
    if not name:
        raise ConfigurationError(f"{text!r} is no stream: a stream is named like orders or stream:orders")
    return name


def entry_reference(text: str) -> EntryReference:
    """An entry, named `stream/entry-id`."""
    stream, slash, entry_id = text.rpartition("/")
    if not slash or not _is_entry_id(entry_id):
        raise ConfigurationError(f"{text!r} is no entry: one is named stream/entry-id, like orders/1700000000000-0")
    return EntryReference(stream_name(stream), entry_id)


def dead_letter_reference(text: str) -> DeadLetterReference:
    """A dead letter, named `stream/group/entry-id`. A group may have a slash in its name, the others cannot."""
    place, _, dead_id = text.rpartition("/")
    stream, _, group = place.partition("/")
    if not stream or not group or not _is_entry_id(dead_id):
        raise ConfigurationError(
            f"{text!r} is no dead letter: one is named stream/group/entry-id, like orders/shipping/1700000000000-0 "
            "(`streamtask dead list` prints them)"
        )
    return DeadLetterReference(stream_name(stream), group, dead_id)


def since(text: str, now: datetime) -> str | datetime:
    """A place in a stream's history: a duration before now (`1h`, `2d12h`), an entry id, or an ISO 8601 moment.

    A moment without a zone is UTC, as all moments are that streamtask prints.
    """
    found = _since(text, now)
    if isinstance(found, datetime):
        ahead = found > now + _AHEAD
    else:
        ahead = int(found.partition("-")[0]) > (now + _AHEAD).timestamp() * 1000
    if ahead:
        raise ConfigurationError(f"{text!r} lies in the future; history ends at {now.isoformat(timespec='seconds')}")
    return found


def _since(text: str, now: datetime) -> str | datetime:
    if _is_entry_id(text):
        return text
    if _MILLISECONDS.fullmatch(text) and int(text) <= _LARGEST:
        return f"{text}-0"
    try:
        if _DURATION.fullmatch(text):
            return now - timedelta(seconds=sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text)))
        return moment(text)
    except (ConfigurationError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no place in history: give a duration (30m, 1h, 2d), an entry id (1700000000000-0; 0 for all) "
            "or a moment (2024-10-19T12:00:00+00:00)"
        ) from None


def moment(text: str) -> datetime:
    """An ISO 8601 moment, past or to come; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
        found.timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{text!r} is no moment: one is like 2024-10-19T12:00:00+00:00") from None
    return found


def _is_entry_id(text: str) -> bool:
    found = _ENTRY_ID.fullmatch(text)
    return found is not None and all(int(part) <= _LARGEST for part in found.groups())
