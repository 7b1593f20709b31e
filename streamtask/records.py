"""Records: small facts beside the streams, fields under a key, with a TTL.

What a session has so far, which upload was seen before, who a speaker was. They are no queue, and no cache of one: a
fact that must not be missed is an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from streamtask.transport.port import Storage

#: The longest key and the longest name of a field, in characters.
MAX_NAME = 512


class Records:
    """The records of an app: `app.records`. Every method raises `TransportError` where the broker cannot be reached."""

    def __init__(self, storage: Callable[[], Storage]) -> None:
        """`storage`: that of the broker, asked for when it is used."""
        self._storage = storage

    async def read(self, key: str) -> dict[str, bytes]:
        """The fields of a record; none where there is no record, or not any more."""
        _check_name(key)
        return await self._storage().read_record(key)

    async def write(self, key: str, fields: Mapping[str, bytes], *, ttl: float) -> None:
        """Set these fields and leave the others; the whole record stands for `ttl` seconds from now."""
        _check_name(key)
        _check_ttl(ttl)
        for field, value in fields.items():
            _check_name(field)
            _check_value(value)
        await self._storage().write_record(key, fields, ttl=ttl)

    async def claim(self, key: str, field: str, value: bytes, *, ttl: float) -> bytes:
        """Set a field unless it is set; returns the value that stands, of whoever came first. Renews the record."""
        _check_name(key)
        _check_name(field)
        _check_ttl(ttl)
        _check_value(value)
        return await self._storage().claim_field(key, field, value, ttl=ttl)

    async def swap(
        self, key: str, fields: Mapping[str, bytes | None], *, expected: Mapping[str, bytes | None], ttl: float
    ) -> bool:
        """Change a record only if it is still as it was read: whether it was, and so has been changed.

        Sets `fields`, or removes those that are None, if each of `expected` stands with this value (None: is not set),
        and renews the record; all in one step. Of several who have read the same, one succeeds; where it is False,
        nothing has changed, and whoever wants to goes back to reading. So leases are taken, and versions counted.
        After a `TransportError` it is unknown whether it was done: read again; a value that names its writer tells.
        """
        _check_name(key)
        _check_ttl(ttl)
        for field, value in (*expected.items(), *fields.items()):
            _check_name(field)
            if value is not None:
                _check_value(value)
        return await self._storage().swap_fields(key, fields, expected=expected, ttl=ttl)

    async def delete(self, key: str, fields: Collection[str] = ()) -> None:
        """Remove these fields, or the whole record where none is named."""
        _check_name(key)
        for field in fields:
            _check_name(field)
        await self._storage().delete_record(key, fields)


def _check_name(name: str) -> None:
    # Braces would have a cluster keep records of their text together, on one node.
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "{" in name or "}" in name:
        shown = ascii(name if len(name) <= MAX_NAME else name[:MAX_NAME])[:80]
        raise ValueError(f"keys and fields have 1 to {MAX_NAME} characters that can be printed, no braces; got {shown}")


def _check_value(value: bytes) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"a record holds bytes, got {type(value).__name__}")


def _check_ttl(ttl: float) -> None:
    if not 0 < ttl < math.inf:
        raise ValueError(f"ttl is in seconds and above 0, got {ttl}")
