"""Commands and scripts to Redis on a connection that is there when it is needed. Knows no streams, never retries."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from streamtask.transport.redis.line import COMMAND_TIMEOUT, Argument, DisconnectedError, Line, ServerError
from streamtask.transport.redis.permissions import lacking

#: Connects. Raises ServerError where the server refuses who we are, UnreachableError where there is no connection.
Dial = Callable[[], Awaitable[Line]]


class Script:
    """A Lua script from `scripts/`, with the shared head before it."""

    def __init__(self, name: str, *, gated: bool = False) -> None:
        """`gated`: it may meet gates, and `gates.lua` stands before it, too."""
        folder = files(__package__) / "scripts"
        self.name = name
        parts = ["head", "gates", name] if gated else ["head", name]
        self.text = "".join((folder / f"{part}.lua").read_text() for part in parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        """The EVALSHA command for these keys and arguments."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]


class Caller(ABC):
    """What commands and scripts can be sent to: one connection (`Wire`), or one to each node of a cluster."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """Grows with every new connection."""

    @abstractmethod
    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """A pipeline; a reply each, in order. A command that the server refused gives its ServerError in the list."""

    @abstractmethod
    async def close(self) -> None:
        """Drop what is connected: whoever waits for a reply is told so. Can be used again: it connects anew."""

    async def call(self, *command: Argument, timeout: float = COMMAND_TIMEOUT) -> Any:
        """One command, one reply.

        Raises:
            ServerError: the server said no.
            DisconnectedError: no reply came; unknown whether it ran.
        """
        [reply] = await self.many([command], timeout=timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def every(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """A pipeline of which nothing should be refused; a reply each.

        Raises:
            ServerError: the server refused one of them (the others may have run).
            DisconnectedError: as `call`.
        """
        replies = await self.many(commands)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """Run a script, loading it where the server does not have it (any more)."""
        [reply] = await self.run_many([(script, keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(self, calls: Sequence[tuple[Script, Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Scripts in one pipeline; replies as from `many`."""
        replies = await self.many([script.command(keys, args) for script, keys, args in calls])
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
        if missing:
            # A script that was not found has not run: sending it again cannot double anything.
            again = [["EVAL", calls[i][0].text, len(calls[i][1]), *calls[i][1], *calls[i][2]] for i in missing]
            for index, reply in zip(missing, await self.many(again), strict=True):
                replies[index] = reply
        return replies


class Wire(Caller):
    """A connection that is there when it is needed. Any number of tasks may use it at once."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._line: Line | None = None
        self._connecting = asyncio.Lock()
        self._generation = 0

    @property
    def generation(self) -> int:
        """See `Caller.generation`."""
        return self._generation

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """See `Caller.many`."""
        if not commands:
            return []
        line = self._line
        if line is None or line.takes_no_more:
            line = await self._connected()
        replies = await line.ask(commands, timeout)
        return [*map(_explained, replies, commands)] if line.may_not else replies

    async def close(self) -> None:
        """See `Caller.close`."""
        line, self._line = self._line, None
        if line is not None:
            line.drop(DisconnectedError("the connection was closed"))

    async def _connected(self) -> Line:
        async with self._connecting:
            if self._line is None or self._line.takes_no_more:
                self._line = await self._dial()
                self._generation += 1
            return self._line


def _explained(reply: Any, command: Sequence[Argument]) -> Any:
    """A reply as it is, but a refusal by the ACL with what it lacks."""
    if not (isinstance(reply, ServerError) and reply.code == "NOPERM"):
        return reply
    script = None
    if command[0] in ("EVAL", "EVALSHA"):
        script = _text_of(str(command[1])) if command[0] == "EVALSHA" else str(command[1])
    return ServerError(lacking(str(reply), command, script))


@cache
def _text_of(sha: str) -> str | None:
    """The text of the script of ours that a server knows by this name."""
    names = [file.name.removesuffix(".lua") for file in (files(__package__) / "scripts").iterdir()]
    return next((script.text for script in map(Script, names) if script.sha == sha), None)
