"""One connected socket to Redis: packed commands out, replies back in order, errors as our own.

hiredis reads what has come in and hands the replies to those who asked, in the order of their questions, so that many
may ask at once without waiting for each other. (redis-py's client retries writes by itself, which doubles entries; its
reading side wakes a task several times for each reply and takes one command at a time.)
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from streamtask.errors import TransportError

Argument = str | bytes | int | float

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


class _Question:
    """A pipeline that was sent, and what has been answered so far."""

    __slots__ = ("answer", "deadline", "replies", "wanted")

    def __init__(self, answer: asyncio.Future[list[Any]], wanted: int, deadline: float) -> None:
        self.answer = answer
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Any] = []


class Line(asyncio.Protocol):
    """One connected socket. Ends for good at the first trouble, and then says so to all who wait."""

    def __init__(self) -> None:
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
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport

    @property
    def takes_no_more(self) -> bool:
        """Whether what is asked here would not be sent: it is over, or the loop has not told us yet that it is."""
        return self.is_over or self._transport.is_closing()

    async def ask(self, commands: Sequence[Sequence[Argument]], timeout: float) -> list[Any]:
        """Send a pipeline; its replies. Cancelled, it leaves the replies unread, and the others theirs."""
        packed = b"".join([_packed(command) for command in commands])
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        deadline = self._loop.time() + timeout
        self._questions.append(_Question(answer, len(commands), deadline))
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


def _packed(command: Sequence[Argument]) -> bytes:
    try:
        return _pack(tuple(command))
    except UnicodeEncodeError:
        # The name of something foreign, read with `keys.text`.
        words = (word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word for word in command)
        return _pack(tuple(words))
