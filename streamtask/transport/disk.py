"""Which servers can be believed when they say that their disk has an event.

One pure decision, for who connects and for the doctor: it knows a server by what it says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

#: The first Redis with WAITAOF. Every Valkey has it.
_CAN_SAY = (7, 2)
#: The first Redis that does not say yes before its disk has an event, which is synced once a second. Before it, and on
#: Valkey, the answer is true with `appendfsync always` only (redis/redis#13793). Of twelve answers each, with system
#: calls traced: early were 12 of Valkey 8.0.1, 11 of 8.1.8, 12 of 9.1.2 and none of Redis 8.2.3; with `always` none.
_CAN_BE_BELIEVED = (8, 0)
_ALWAYS = "CONFIG SET appendfsync always, and the same in its configuration file"


class Unfit(NamedTuple):
    """Why a server cannot be used with `durability="disk"`, and what to do."""

    reason: str
    remedy: str


def unfit_for_disk(engine: str, version: str, settings: Mapping[str, str]) -> Unfit | None:
    """What keeps a server from saying truly that its disk has an event; None where nothing does.

    `settings` are words of INFO and CONFIG GET; one that is missing could not be had.
    """
    name = f"{engine.capitalize()} {version}"
    if engine == "redis" and _version(version) < _CAN_SAY:
        return Unfit(f"{name} cannot say when its disk has an event", "use Redis 7.2 or newer, or Valkey")
    if settings.get("aof_enabled") == "0":
        return Unfit(
            "appendonly is no: the disk of the server gets no event by itself",
            "CONFIG SET appendonly yes, and the same in its configuration file",
        )
    appendfsync = settings.get("appendfsync")
    if appendfsync == "no":
        return Unfit("appendfsync is no: the server never says that its disk has an event", _ALWAYS)
    if appendfsync == "always" or (engine == "redis" and _version(version) >= _CAN_BE_BELIEVED):
        return None
    if appendfsync is None:
        return Unfit(
            f"{name} says too early that its disk has an event unless appendfsync is always, and this user may not ask "
            "whether it is",
            "allow it to (+config|get), or use Redis 8.0 or newer",
        )
    return Unfit(
        f"appendfsync is {appendfsync}, with which {name} says too early that its disk has an event",
        f"{_ALWAYS}, or use Redis 8.0 or newer",
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))
