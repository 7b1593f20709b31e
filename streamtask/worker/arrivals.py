"""What comes from the server, as far as it is still ours once we get to look at it.

A reply can wait here for longer than we were allowed to keep what it brings: behind a handler that blocks the loop, or
while the process is stopped. Nobody renews meanwhile what is not known yet, so others may have taken it over; to run
it all the same would be to run it twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from streamtask.transport.port import Transport
from streamtask.transport.values import Delivery
from streamtask.worker.keeper import BEAT_TTL


async def still_ours(
    transport: Transport, deliveries: Sequence[Delivery], *, asked_at: float, lease: float
) -> list[Delivery]:
    """The deliveries without those that were taken over before we saw them. `asked_at`: monotonic, before the read."""
    if not deliveries or time.monotonic() - asked_at < min(lease, BEAT_TTL):
        return list(deliveries)
    lost = set(await transport.renew(deliveries))
    return [delivery for delivery in deliveries if delivery not in lost]
