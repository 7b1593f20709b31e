"""Blobs and records in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from streamtask.transport.memory.store import MemoryStore
from streamtask.transport.values import StoredBlob

#: Seconds for which bytes outlive their blob: whoever has just asked where they are can read them.
_GRACE = 60.0


class MemoryStorage:
    """See `port.Storage`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, name: str, part: str, piece: bytes, *, offset: int, ttl: float) -> bool:
        """Add to a part that has `offset` bytes."""
        with self._store.lock:
            so_far = self._store.parts.get(_part(name, part), self._clock())
            if len(so_far or b"") != offset:
                return False
            whole = bytearray() if so_far is None else so_far
            whole += piece
            self._keep(name, part, whole, ttl)
            return True

    async def commit(self, name: str, blob: StoredBlob, *, ttl: float) -> bool:
        """Make a part the blob; the one before stays for those who read it."""
        with self._store.lock:
            now = self._clock()
            whole = self._store.parts.get(_part(name, blob.part), now)
            if whole is None or len(whole) != blob.size:
                return False
            before = self._store.blobs.get(name, now)
            replaced = before and self._store.parts.get(_part(name, before.part), now)
            if before and replaced:
                self._keep(name, before.part, replaced, _GRACE)
            self._store.blobs.put(name, blob, now + ttl, now)
            self._keep(name, blob.part, whole, ttl + _GRACE)
            return True

    async def discard(self, name: str, part: str) -> None:
        """Remove a part."""
        with self._store.lock:
            self._store.parts.drop(_part(name, part))

    async def find(self, name: str) -> StoredBlob | None:
        """What stands under a name."""
        with self._store.lock:
            return self._store.blobs.get(name, self._clock())

    async def piece(self, name: str, part: str, *, offset: int, size: int) -> bytes:
        """Bytes of a blob."""
        with self._store.lock:
            whole = self._store.parts.get(_part(name, part), self._clock()) or b""
            return bytes(whole[offset : offset + size])

    async def remove(self, name: str) -> None:
        """Remove a blob with its bytes."""
        with self._store.lock:
            blob = self._store.blobs.get(name, self._clock())
            if blob is not None:
                self._store.parts.drop(_part(name, blob.part))
                self._store.blobs.drop(name)

    def _keep(self, name: str, part: str, whole: bytearray, ttl: float) -> None:
        now = self._clock()
        self._store.parts.put(_part(name, part), whole, now + ttl, now)

    # ── records ───────────────────────────────────────────────────────────────────────────────────────────────

    async def read_record(self, key: str) -> dict[str, bytes]:
        """The fields of a record."""
        with self._store.lock:
            return dict(self._fields(key))

    async def write_record(self, key: str, fields: Mapping[str, bytes], *, ttl: float) -> None:
        """Set fields and renew the record."""
        with self._store.lock:
            self._renew(key, {**self._fields(key), **fields}, ttl)

    async def claim_field(self, key: str, field: str, value: bytes, *, ttl: float) -> bytes:
        """Set a field unless it is set; the value that stands."""
        with self._store.lock:
            fields = {field: value, **self._fields(key)}
            self._renew(key, fields, ttl)
            return fields[field]

    async def swap_fields(
        self, key: str, fields: Mapping[str, bytes | None], *, expected: Mapping[str, bytes | None], ttl: float
    ) -> bool:
        """Change fields where others are as expected."""
        with self._store.lock:
            record = dict(self._fields(key))
            if any(record.get(field) != value for field, value in expected.items()):
                return False
            changed: dict[str, bytes | None] = {**record, **fields}
            self._renew(key, {field: value for field, value in changed.items() if value is not None}, ttl)
            return True

    async def delete_record(self, key: str, fields: Collection[str]) -> None:
        """Remove fields, or all of them."""
        with self._store.lock:
            record = self._fields(key)
            for field in fields or list(record):
                record.pop(field, None)

    def _fields(self, key: str) -> dict[str, bytes]:
        return self._store.records.get(key, self._clock()) or {}

    def _renew(self, key: str, fields: dict[str, bytes], ttl: float) -> None:
        now = self._clock()
        self._store.records.put(key, fields, now + ttl, now)


def _part(name: str, part: str) -> str:
    return f"{name}:{part}"
