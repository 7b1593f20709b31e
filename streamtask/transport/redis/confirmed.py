"""Writing that returns when replicas or a disk have it: WAIT or WAITAOF behind the commands, on their connection.

They hold a connection up until they are answered, so what is to be written meanwhile is collected, sent in one pipeline
and waited for once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from streamtask.errors import TransportError
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import COMMAND_TIMEOUT, Argument, DisconnectedError

#: Commands that are waited for together.
_MOST = 500


class UnconfirmedError(TransportError):
    """The server has it, and whoever had to confirm it has not, in time: it may be lost with the server."""

    is_unknown = True


class Confirmation(Protocol):
    """Who confirms what is written."""

    async def question(self) -> Sequence[str | int]:
        """The command to send behind what is written. Raises TransportError where that cannot be told."""

    def missing(self, question: Sequence[str | int], answer: Any) -> str:
        """What the answer lacks, in words; empty where it is a yes."""


class Confirmed(Caller):
    """What is written through it is confirmed, or `UnconfirmedError` is raised."""

    def __init__(self, caller: Caller, confirmation: Confirmation) -> None:
        self._caller = caller
        self._confirmation = confirmation
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
            self._sender = asyncio.create_task(self._send(timeout), name="streamtask-confirmed")
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
                question = await self._confirmation.question()
                *replies, confirmed = await self._caller.many([*commands, question], timeout=timeout)
            except TransportError as error:
                _fail(batch, error)
                continue
            missing = (
                f"{question[0]} was refused: {confirmed}"
                if isinstance(confirmed, Exception)
                else self._confirmation.missing(question, confirmed)
            )
            if missing:
                _fail(batch, UnconfirmedError(missing))
                continue
            for each, answer in batch:
                mine, replies = replies[: len(each)], replies[len(each) :]
                if not answer.done():
                    answer.set_result(mine)


def _fail(batch: Sequence[tuple[object, asyncio.Future[list[Any]]]], error: TransportError) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
