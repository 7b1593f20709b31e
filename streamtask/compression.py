"""Compression of stream entries, bounded when it is undone.

Done here and not by kombu, whose `gzip` writes zlib's format and whose decompression has no bound.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streamtask.errors import EnvelopeError, EnvelopeTooLargeError

#: Memory that one lzma stream may ask for: enough for what `xz -9` writes.
_LZMA_MEMORY = 80 << 20


class _Decompressor(Protocol):
    """What the three standard decompressors have in common, used with a bound on the output."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """One compression: the word in the entry, and both ways."""

    name: str
    compress: Callable[[bytes], bytes]
    decompressor: Callable[[], _Decompressor]


def _inflater() -> _Decompressor:
    # 32: finds out by itself whether it is gzip's or zlib's format, as producers mix up the two words.
    return zlib.decompressobj(32 + zlib.MAX_WBITS)


COMPRESSIONS = (
    Compression("gzip", lambda data: zlib.compress(data, wbits=16 + zlib.MAX_WBITS), _inflater),
    Compression("zlib", zlib.compress, _inflater),
    Compression("bz2", bz2.compress, bz2.BZ2Decompressor),
    Compression("lzma", lzma.compress, lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)),
)
#: By every word that may stand in an entry: ours, kombu's, HTTP's.
BY_WORD = {each.name: each for each in COMPRESSIONS} | {
    "application/x-gzip": COMPRESSIONS[0],
    "x-gzip": COMPRESSIONS[0],
    "deflate": COMPRESSIONS[1],
    "application/x-bz2": COMPRESSIONS[2],
    "bzip2": COMPRESSIONS[2],
    "application/x-lzma": COMPRESSIONS[3],
    "xz": COMPRESSIONS[3],
}
#: Words that name no compression. AMQP's libraries put the character set here.
PLAIN_WORDS = frozenset({"", "identity", "utf-8", "utf8", "us-ascii", "binary"})


def decompress(compression: Compression, body: bytes, limit: int) -> bytes:
    """Undo it, up to `limit` bytes. Raises EnvelopeTooLargeError or EnvelopeError."""
    decompressor = compression.decompressor()
    parts, size, data = [], 0, body
    try:
        while not decompressor.eof and size <= limit:
            part = decompressor.decompress(data, limit + 1 - size)
            # What zlib has not looked at yet it gives back; the other two keep it.
            data = getattr(decompressor, "unconsumed_tail", b"")
            if not part and not data:
                break
            parts.append(part)
            size += len(part)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise EnvelopeError(f"the entry is no {compression.name}: {error}") from error
    if size > limit:
        raise EnvelopeTooLargeError(size, limit)
    if not decompressor.eof or decompressor.unused_data:
        raise EnvelopeError(f"the entry's {compression.name} is cut short or followed by something else")
    return b"".join(parts)
