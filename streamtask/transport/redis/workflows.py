"""How far workflows are: begun and read here, written by `settle.lua`."""

from __future__ import annotations

from streamtask.transport.redis import commands, keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import Result

#: The field that says what a workflow is made of: no call is named so.
_DEFINITION = "~"


class RedisWorkflows:
    """`Workflows` on Redis."""

    def __init__(self, wire: Caller, publisher: Caller) -> None:
        self._wire = wire
        self._publisher = publisher
        self._cancel = Script("cancel_workflow")

    async def begin(self, stream: str, workflow: str, definition: bytes, *, ttl: float) -> None:
        """See `Workflows.begin`."""
        key = keys.workflow(stream, workflow)
        await self._publisher.every(
            [["HSET", key, _DEFINITION, definition], ["PEXPIRE", key, max(1, round(ttl * 1000))]]
        )

    async def states(self, stream: str, workflow: str) -> tuple[bytes, dict[str, str]] | None:
        """See `Workflows.states`."""
        fields = commands.mapping(await self._wire.call("HGETALL", keys.workflow(stream, workflow)))
        definition = fields.pop(_DEFINITION, None)
        return None if definition is None else (definition, {name: keys.text(fields[name]) for name in fields})

    async def values(self, stream: str, group: str) -> dict[int, bytes]:
        """See `Workflows.values`."""
        fields = commands.mapping(await self._wire.call("HGETALL", keys.values(stream, group)))
        return {int(index): value for index, value in fields.items()}

    async def cancel(self, stream: str, workflow: str, result: Result | None, *, ttl: float) -> bool:
        """See `Workflows.cancel`."""
        name = "" if result is None else result.event_id
        names = [keys.cancelled(stream, workflow), keys.result(stream, name), keys.results(stream)]
        told: list[Argument] = [] if result is None else [max(1, round(result.ttl * 1000)), result.body]
        reply = await self._wire.run(self._cancel, names, [max(1, round(ttl * 1000)), name, *told])
        return bool(reply == 1)
