"""Leases: one holder at a time of something that several processes may have, as a record that runs out.

What a lease guards is safe where its holder stops by itself once `remaining` is 0: nobody else can have it earlier,
whatever happened to the connection, for the record's end is set after the moment from which `remaining` counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from streamtask import Records

_HOLDER = "holder"


class Lease:
    """The lease of one name, for one who wants to hold it. `holder` is unique: two with the same hold it together.

    Every method raises `TransportError` where the broker cannot be reached; what is held stays held until it runs out.
    """

    def __init__(
        self, records: Records, key: str, holder: str, *, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ttl`: seconds for which it is held without being renewed. `clock`: seconds, for `remaining`."""
        self._records = records
        self._key = key
        self._holder = holder.encode()
        self._ttl = ttl
        self._clock = clock
        self._held_until = clock()

    @property
    def remaining(self) -> float:
        """Seconds for which it is surely ours; 0 where it may be another's."""
        return max(0.0, self._held_until - self._clock())

    async def take(self, facts: Mapping[str, bytes] | None = None) -> bool:
        """Take it where nobody holds it, or renew it where we do: whether it is ours. `facts`: to stand beside it."""
        asked = self._clock()
        fields = {**(facts or {}), _HOLDER: self._holder}
        for expected in (self._holder, None):
            if await self._records.swap(self._key, fields, expected={_HOLDER: expected}, ttl=self._ttl):
                self._held_until = asked + self._ttl
                return True
        self._held_until = asked
        return False

    async def renew(self, facts: Mapping[str, bytes] | None = None) -> bool:
        """Hold it for longer: False where it has run out, or is another's, and then it is ours no more."""
        asked = self._clock()
        fields = {**(facts or {}), _HOLDER: self._holder}
        renewed = await self._records.swap(self._key, fields, expected={_HOLDER: self._holder}, ttl=self._ttl)
        self._held_until = asked + self._ttl if renewed else asked
        return renewed

    async def release(self) -> None:
        """Let it go, for others to take at once."""
        self._held_until = self._clock()
        # What is written here would be removed with the last field: a record without any is no record.
        facts = await self._records.read(self._key)
        gone = dict.fromkeys(facts)
        await self._records.swap(self._key, gone, expected={_HOLDER: self._holder}, ttl=self._ttl)

    async def holder(self) -> str | None:
        """Who holds it; None where nobody does."""
        found = (await self._records.read(self._key)).get(_HOLDER)
        return None if found is None else found.decode()
