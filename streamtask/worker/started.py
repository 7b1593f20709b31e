"""The table of started entries: which entries a worker process was running, legible after its death.

The worker marks an entry before its handler starts and clears it when the handler has ended. The table is a piece of
memory that the supervisor shares, so that it outlives a kill -9: what stands in it is charged as a crash, what does not
had only been fetched and is nobody's fault. One slot belongs to one thread at a time; this module takes no locks, makes
no system calls after it is mapped, and knows no engine.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from typing import Final, Self

#: Bytes of one slot: a cache line.
SLOT_BYTES: Final = 64
#: Marker, index of the subscription, length of the id, the id.
_LAYOUT: Final = struct.Struct("<BHB60s")
_ID_LIMIT: Final = 60
_EMPTY: Final = 0
_MARKED: Final = 0xA5


class StartedTable:
    """Slots of started entries in shared memory."""

    __slots__ = ("_map", "_view", "fd", "slots")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, 0)
        self._view = memoryview(self._map)
        self.slots = len(self._view) // SLOT_BYTES

    @classmethod
    def create(cls, slots: int) -> Self:
        """A new table, all slots empty. Its `fd` is closed on exec; hand it down with `pass_fds`."""
        if slots < 1:
            raise ValueError(f"a table has at least 1 slot, got {slots}")
        fd = _memory()
        os.ftruncate(fd, slots * SLOT_BYTES)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int, *, slots: int = 1) -> Self:
        """The table behind a descriptor that was handed down by the process that created it.

        It grows where it has fewer than so many slots: only who handles batches knows how much it starts at a time.
        """
        if os.fstat(fd).st_size < slots * SLOT_BYTES:
            os.ftruncate(fd, slots * SLOT_BYTES)
        return cls(fd)

    def mark(self, slot: int, subscription_index: int, entry_id: str) -> None:
        """Note that the slot runs this entry of that subscription."""
        encoded = entry_id.encode()
        if len(encoded) > _ID_LIMIT:
            raise ValueError(f"an entry id has at most {_ID_LIMIT} bytes, got {len(encoded)}")
        offset = slot * SLOT_BYTES
        view = self._view
        # The marker goes first and comes last: a process killed in between leaves an empty slot, never a wrong id.
        view[offset] = _EMPTY
        _LAYOUT.pack_into(view, offset, _EMPTY, subscription_index, len(encoded), encoded)
        view[offset] = _MARKED

    def clear(self, slot: int) -> None:
        """Note that the slot runs nothing."""
        self._view[slot * SLOT_BYTES] = _EMPTY

    def read(self) -> list[tuple[int, str]]:
        """(subscription index, entry id) of every marked slot."""
        return started_entries(self.copy())

    def copy(self) -> bytes:
        """The table as it stands, for `started_entries`."""
        return bytes(self._view)

    def close(self) -> None:
        """Unmap the table and close its descriptor."""
        self._view.release()
        self._map.close()
        os.close(self.fd)


def started_entries(table: bytes) -> list[tuple[int, str]]:
    """(subscription index, entry id) of every marked slot in a copy of a table."""
    found = []
    for offset in range(0, len(table) - SLOT_BYTES + 1, SLOT_BYTES):
        if not table[offset]:
            continue
        marker, index, length, padded = _LAYOUT.unpack_from(table, offset)
        if marker == _MARKED and 0 < length <= _ID_LIMIT:
            found.append((index, padded[:length].decode("utf-8", "replace")))
    return found


def _memory() -> int:
    """A descriptor of anonymous memory; a file without a name where the system has no such thing."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("streamtask-started")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
