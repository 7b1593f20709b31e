"""The values of a workflow's group, for the call that takes them: waited for, however long the server is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from streamtask.transport.port import Transport
from streamtask.worker.outage import Outage

#: Gives the values of a group by their index: (stream, group).
Values = Callable[[str, str], Awaitable[Mapping[int, bytes]]]


def values_from(transport: Transport, outage: Outage) -> Values:
    """What reads values."""

    async def values(stream: str, group: str) -> Mapping[int, bytes]:
        return await outage.outlast(lambda: transport.workflows.values(stream, group))

    return values
