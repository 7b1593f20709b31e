"""Writing that returns when replicas have what was written: WAIT behind the commands, on their connection.

WAIT holds a connection up until the replicas have answered, so what is to be written meanwhile is collected, sent in
one pipeline and waited for once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streamtask.errors import TransportError
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import COMMAND_TIMEOUT, Argument, DisconnectedError
from streamtask.transport.redis.replicas import AllReplicas, Fixed, Wanted
from streamtask.transport.values import Copies

#: Seconds that the replicas may take; well below what a reply may.
_WITHIN = 1.0
#: Commands that one WAIT stands behind.
_MOST = 500


class NotReplicatedError(TransportError):
    """The primary has it, and not enough replicas have said so in time: a failover may lose it."""

    is_unknown = True


class Replicated(Caller):
    """What is written through it is on the primary and on some replicas, or `NotReplicatedError` is raised."""

    def __init__(self, caller: Caller, *, copies: Copies) -> None:
        """`copies`: how many replicas."""
        self._caller = caller
        self._wanted: Wanted = AllReplicas(caller) if copies == "all" else Fixed(copies)
        self._waiting: list[tuple[Sequence[Sequence[Argument]], asyncio.Future[list[Any]]]] = []
        self._sender: asyncio.Task[None] | None = None

    @property
    def generation(self) -> int:
        """See `Caller.generation`."""
        return self._caller.generation

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """See `Caller.many`. Goes with what others write at the same time; `timeout` is that of the whole."""
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, answer))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send(timeout), name="streamtask-replicated")
        return await answer

    async def close(self) -> None:
        """See `Caller.close`."""
        waiting, self._waiting = self._waiting, []
        _fail(waiting, DisconnectedError("the connection was closed"))
        await self._caller.close()
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self, timeout: float) -> None:
        while self._waiting:
            batch = [self._waiting.pop(0)]
            commands = list(batch[0][0])
            while self._waiting and len(commands) + len(self._waiting[0][0]) <= _MOST:
                batch.append(self._waiting.pop(0))
                commands += batch[-1][0]
            try:
                wanted = await self._wanted.number()
                *replies, copies = await self._caller.many(
                    [*commands, ["WAIT", wanted, round(_WITHIN * 1000)]], timeout=timeout
                )
            except TransportError as error:
                _fail(batch, error)
                continue
            if isinstance(copies, int) and copies >= wanted:
                for each, answer in batch:
                    mine, replies = replies[: len(each)], replies[len(each) :]
                    if not answer.done():
                        answer.set_result(mine)
            else:
                _fail(batch, NotReplicatedError(_told(copies, wanted)))


def _told(copies: Any, wanted: int) -> str:
    if isinstance(copies, Exception):
        return f"WAIT was refused: {copies}"
    return f"{copies} of {wanted} replicas confirmed it within {_WITHIN:g} s"


def _fail(batch: Sequence[tuple[object, asyncio.Future[list[Any]]]], error: TransportError) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
