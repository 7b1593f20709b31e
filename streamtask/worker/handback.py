"""Handing back what a dead worker held, on behalf of the supervisor that has reaped it.

The supervisor imports this module when a child has died, and not before: until then it carries no engine. It is called
only with owners that are proved dead; it decides nothing about an entry but whether it had been started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamtask import failpoints
from streamtask.transport.connect import Connector
from streamtask.transport.values import Subscription
from streamtask.worker.started import started_entries


def hand_back(broker: str, owner: str, subscriptions: Sequence[tuple[str, str]], started: bytes) -> int:
    """Give every entry that `owner` held back to its group, due now, and retire the owner; returns how many.

    `subscriptions` are (stream, group) in the order of the indexes in `started`, a copy of the owner's table: entries
    that stand in it are charged as a crash, all others are not. Raises `TransportError`: call it again. What is in the
    memory of the dead process (`memory://`) died with it.
    """
    if broker.startswith("memory://"):
        return 0
    if failpoints.armed:
        failpoints.reached("before_hand_back")
    return asyncio.run(_hand_back(broker, owner, subscriptions, started))


async def _hand_back(broker: str, owner: str, subscriptions: Sequence[tuple[str, str]], started: bytes) -> int:
    running = started_entries(started)
    connector = Connector(broker)
    transport = connector.open()
    try:
        await transport.connect()
        count = 0
        for index, (stream, group) in enumerate(subscriptions):
            ids = {entry_id for subscription, entry_id in running if subscription == index}
            count += await transport.recovery.hand_back(stream, group, owner, started=ids)
        read = [Subscription(stream=stream, group=group) for stream, group in subscriptions]
        await transport.recovery.retire(owner, read)
    finally:
        await transport.close()
        connector.close()
    return count
