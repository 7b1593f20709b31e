"""Which slot of a Redis Cluster a key, or a command of ours, belongs to. Pure functions."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence

from streamtask.transport.redis.line import Argument

SLOTS = 16_384
#: Where a command has its key, if it is not the word after its name.
_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "XINFO": 2, "XGROUP": 2, "MEMORY": 2}
_READS = frozenset({"XREAD", "XREADGROUP"})
#: Any node answers these.
_KEYLESS = frozenset({"INFO", "COMMAND", "CONFIG", "TIME", "WAIT", "WAITAOF"})


def slot_of(key: str | bytes) -> int:
    """The slot of a key: of the part in braces, where there is one, so that keys can be kept together."""
    word = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    start = word.find(b"{")
    if start >= 0:
        end = word.find(b"}", start + 1)
        if end > start + 1:
            word = word[start + 1 : end]
    # CRC-16/XMODEM, which is what Redis takes.
    return crc_hqx(word, 0) % SLOTS


def slot_of_command(command: Sequence[Argument]) -> int | None:
    """The slot of a command's first key; None where it has none. All its keys are of one slot."""
    name = str(command[0])
    if name in _KEYLESS:
        return None
    place = command.index("STREAMS") + 1 if name in _READS else _KEY_AT.get(name, 1)
    key = command[place]
    return slot_of(key if isinstance(key, bytes) else str(key))
