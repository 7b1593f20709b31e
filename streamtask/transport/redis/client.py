"""One connection to Redis: commands out, replies back in order, errors as our own. Knows no streams, never retries.

redis-py makes the connection (`addresses.py`) and greets the server; then its socket is ours. redis-py's client retries
writes by itself, which doubles entries; its reading side wakes a task several times for each reply and takes one
command at a time. Here hiredis reads what has come in and hands the replies to those who asked, in the order of their
questions, so that many may ask at once without waiting for each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import hiredis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from streamtask.errors import TransportError
from streamtask.transport.redis.permissions import lacking

Argument = str | bytes | int | float
#: Builds a redis-py connection that is not connected yet.
ConnectionFactory = Callable[[], Any]

#: Seconds for a command that does not block on purpose, and for connecting.
COMMAND_TIMEOUT = 5.0
#: A reply that is late is waited for while bytes move: seconds in which none has moved, and it is given up.
_STILL = 2.0
#: After one of these the server will not take our commands on this connection: resolve and connect anew.
#: UNBLOCKED: a primary has become a replica, and closes the connection after it.
_RECONNECT = frozenset({"READONLY", "LOADING", "MASTERDOWN", "UNKILLABLE", "NOAUTH", "UNBLOCKED"})
#: How Redis 6.2 wraps what a command within a script was refused with.
_WITHIN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]+ .+)", re.DOTALL)
#: How a script is told that the ACL of its user does not allow a command or key: before Redis 7.2, and since.
_NOT_ALLOWED = re.compile("The user executing the script can't|ACL failure in script")
#: What to think of when a server hangs up on our greeting, without and with TLS.
_HUNG_UP = {
    False: "; is it a port of TLS? Its URLs begin with rediss://",
    True: "; over TLS: does the server ask for a certificate of ours (ssl_certfile, ssl_keyfile)?",
}
#: What hiredis answers while a reply is not whole.
_NOT_YET = object()

#: A command as bytes. hiredis takes a tenth of redis-py's time for it.
_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment] # it says: one word


class DisconnectedError(TransportError):
    """No reply: whether the command ran is unknown."""

    is_unknown = True


class UnreachableError(DisconnectedError):
    """No connection: nothing was sent."""

    is_unknown = False


class ServerError(TransportError):
    """The server replied with an error."""

    def __init__(self, message: str) -> None:
        within = _WITHIN_SCRIPT.search(message)
        message = within[1] if within else message
        super().__init__(message)
        #: First word of the reply: "NOGROUP", "OOM", "NOSCRIPT", "ERR"...
        self.code = "NOPERM" if _NOT_ALLOWED.search(message) else message.split(" ", 1)[0].rstrip(":")


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

    def __init__(self, make: ConnectionFactory) -> None:
        self._make = make
        self._line: _Line | None = None
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
        if line is None or line.is_over:
            line = await self._connected()
        replies = await line.ask(b"".join([_packed(command) for command in commands]), len(commands), timeout)
        return [*map(_explained, replies, commands)] if line.may_not else replies

    async def close(self) -> None:
        """See `Caller.close`."""
        line, self._line = self._line, None
        if line is not None:
            line.drop(DisconnectedError("the connection was closed"))

    async def _connected(self) -> _Line:
        async with self._connecting:
            if self._line is None or self._line.is_over:
                self._line = await self._connect()
                self._generation += 1
            return self._line

    async def _connect(self) -> _Line:
        connection = self._make()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await connection.connect()
            return _Line(connection)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, RedisError | OSError | TimeoutError):
                raise _translate(error, secure=hasattr(connection, "ssl_context")) from _without_frames(error)
            raise


class _Question:
    """A pipeline that was sent, and what has been answered so far."""

    __slots__ = ("answer", "deadline", "replies", "wanted")

    def __init__(self, answer: asyncio.Future[list[Any]], wanted: int, deadline: float) -> None:
        self.answer = answer
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Any] = []


class _Line(asyncio.Protocol):
    """One connected socket. Ends for good at the first trouble, and then says so to all who wait."""

    def __init__(self, connection: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=_NOT_YET)
        self._questions: deque[_Question] = deque()
        self._timer: asyncio.TimerHandle | None = None
        #: When bytes came last; how many were handed to the socket; how many of them had left at the last look, and how
        #: many waited.
        self._heard_at = 0.0
        self._written = 0
        self._left = 0
        self._waited = 0
        #: Nothing more may be asked here.
        self.is_over = False
        #: The server has refused something here because its ACL does not allow it.
        self.may_not = False
        # redis-py has no public way to hand over its socket. It keeps nothing, or it would close ours one day; the
        # writer is kept here, which closes the socket when it is collected.
        self._writer: asyncio.StreamWriter = connection._writer  # noqa: SLF001
        connection._writer = connection._reader = None  # noqa: SLF001
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    async def ask(self, packed: bytes, wanted: int, timeout: float) -> list[Any]:
        """Send a pipeline; its replies. Cancelled, it leaves the replies unread, and the others theirs."""
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        deadline = self._loop.time() + timeout
        self._questions.append(_Question(answer, wanted, deadline))
        if self._timer is None or deadline < self._timer.when():
            self._look_at(deadline)
        self._written += len(packed)
        self._transport.write(packed)
        return await answer

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand out the replies that are whole."""
        reader, questions = self._reader, self._questions
        self._heard_at = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOT_YET:
                question = questions[0]
                question.replies.append(reply)
                if isinstance(reply, ServerError):
                    self.is_over = self.is_over or reply.code in _RECONNECT
                    self.may_not = self.may_not or reply.code == "NOPERM"
                if len(question.replies) == question.wanted:
                    questions.popleft()
                    if not question.answer.done():
                        question.answer.set_result(question.replies)
        except (hiredis.ProtocolError, IndexError) as error:
            self.drop(DisconnectedError(f"the server does not speak the protocol: {error!r}"))
        if self.is_over and not questions:
            self.drop(DisconnectedError("the connection was closed"))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self.drop(DisconnectedError(str(error) if error else "the server closed the connection"))

    def drop(self, reason: DisconnectedError) -> None:
        """Close the socket, and tell all who wait."""
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        questions, self._questions = self._questions, deque()
        for question in questions:
            if not question.answer.done():
                question.answer.set_exception(DisconnectedError(str(reason)))

    def _look_at_the_time(self) -> None:
        # One timer for all: what was asked first has to be answered first.
        self._timer = None
        if self._questions:
            now, next_look = self._loop.time(), self._questions[0].deadline
            if next_look <= now:
                if not self._moves(now):
                    self.drop(DisconnectedError("no reply in time"))
                    return
                next_look = now + _STILL
            self._look_at(next_look)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            # Set for a question that was given longer, and has been answered.
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._look_at_the_time)

    def _moves(self, now: float) -> bool:
        """Whether bytes are under way: whoever gave up a large reply on a slow network would ask for it for ever."""
        waited, self._waited = self._waited, self._transport.get_write_buffer_size()
        left_before, self._left = self._left, self._written - self._waited
        is_sending = (waited or self._waited) and self._left > left_before
        return bool(is_sending) or now - self._heard_at < _STILL


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


def _packed(command: Sequence[Argument]) -> bytes:
    try:
        return _pack(tuple(command))
    except UnicodeEncodeError:
        # The name of something foreign, read with `keys.text`.
        words = (word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word for word in command)
        return _pack(tuple(words))


def _without_frames(error: BaseException) -> BaseException:
    """An error of redis-py without its frames, whose local variables hold the password."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _translate(error: Exception, *, secure: bool) -> TransportError:
    """What went wrong while connecting. `secure`: over TLS."""
    if isinstance(error, AuthenticationError):
        return ServerError(f"NOAUTH {error}")
    if isinstance(error, TimeoutError) and not isinstance(error, RedisError):
        return UnreachableError(f"no connection in time{'; does this port speak TLS?' if secure else ''}")
    if isinstance(error, ResponseError):
        return ServerError(str(error))
    if isinstance(error, RedisConnectionError | OSError):
        hung_up = isinstance(error.__context__, ConnectionResetError) or "closed by server" in str(error)
        hint = _HUNG_UP[secure] if hung_up else ""
        return UnreachableError(f"{error}{hint}" if str(error) else type(error).__name__)
    return UnreachableError(f"{type(error).__name__}: {error}")
