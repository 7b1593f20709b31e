"""Blobs and records in Redis: strings and hashes beside the streams, each key with an end and, on a cluster, a slot.

A blob's key says which part is the blob, a key of its own has the bytes: what is replaced can be read to its end, and
nothing half-written is ever seen. What makes something visible is written by the `keeper`, which waits for replicas
where publishing does; all else goes by the `carrier`, on a connection that nothing short has to share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from streamtask.errors import TransportError
from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import StoredBlob

#: Seconds for which bytes outlive their blob: whoever has just asked where they are can read them.
_GRACE = 60.0


class RedisStorage:
    """`Storage` on Redis."""

    def __init__(self, carrier: Caller, keeper: Caller) -> None:
        self._carrier = carrier
        self._keeper = keeper
        self._append = Script("blob_append")
        self._commit = Script("blob_commit")
        self._remove = Script("blob_remove")
        self._write = Script("record_write")
        self._claim = Script("record_claim")
        self._swap = Script("record_swap")

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def append(self, name: str, part: str, piece: bytes, *, offset: int, ttl: float) -> bool:
        """See `Storage.append`."""
        words: list[Argument] = [offset, _ms(ttl), piece]
        return bool(await self._carrier.run(self._append, [keys.blob_parts(name) + part], words))

    async def commit(self, name: str, blob: StoredBlob, *, ttl: float) -> bool:
        """See `Storage.commit`."""
        parts = keys.blob_parts(name)
        words: list[Argument] = [parts, blob.part, blob.size, _ms(ttl), _ms(_GRACE)]
        return bool(await self._keeper.run(self._commit, [keys.blob(name), parts + blob.part], words))

    async def discard(self, name: str, part: str) -> None:
        """See `Storage.discard`."""
        await self._carrier.call("PEXPIRE", keys.blob_parts(name) + part, 0)

    async def find(self, name: str) -> StoredBlob | None:
        """See `Storage.find`."""
        stored: bytes | None = await self._carrier.call("GET", keys.blob(name))
        if stored is None:
            return None
        part, _, size = keys.text(stored).partition(" ")
        if not size.isdecimal():
            raise TransportError(f"the key {keys.blob(name)} holds something that streamtask has not written")
        return StoredBlob(part, int(size))

    async def piece(self, name: str, part: str, *, offset: int, size: int) -> bytes:
        """See `Storage.piece`."""
        found: bytes = await self._carrier.call("GETRANGE", keys.blob_parts(name) + part, offset, offset + size - 1)
        return found

    async def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        await self._keeper.run(self._remove, [keys.blob(name)], [keys.blob_parts(name)])

    # ── records ───────────────────────────────────────────────────────────────────────────────────────────────

    async def read_record(self, key: str) -> dict[str, bytes]:
        """See `Storage.read_record`."""
        return commands.mapping(await self._carrier.call("HGETALL", keys.record(key)))

    async def write_record(self, key: str, fields: Mapping[str, bytes], *, ttl: float) -> None:
        """See `Storage.write_record`."""
        words: list[Argument] = [_ms(ttl)]
        for field, value in fields.items():
            words += (field, value)
        await self._keeper.run(self._write, [keys.record(key)], words)

    async def claim_field(self, key: str, field: str, value: bytes, *, ttl: float) -> bytes:
        """See `Storage.claim_field`."""
        stands: bytes = await self._keeper.run(self._claim, [keys.record(key)], [_ms(ttl), field, value])
        return stands

    async def swap_fields(
        self, key: str, fields: Mapping[str, bytes | None], *, expected: Mapping[str, bytes | None], ttl: float
    ) -> bool:
        """See `Storage.swap_fields`."""
        words: list[Argument] = [_ms(ttl), len(expected)]
        for field, value in (*expected.items(), *fields.items()):
            words += (field, 0, b"") if value is None else (field, 1, value)
        return bool(await self._keeper.run(self._swap, [keys.record(key)], words))

    async def delete_record(self, key: str, fields: Collection[str]) -> None:
        """See `Storage.delete_record`."""
        if fields:
            await self._keeper.call("HDEL", keys.record(key), *fields)
        else:
            await self._keeper.call("PEXPIRE", keys.record(key), 0)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
