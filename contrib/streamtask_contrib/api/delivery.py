"""Results on their way to clients: as messages, through a mailbox for each client that a slow one cannot fill.

A message is JSON, made once for all clients. What is still being spoken (`partial`) may be dropped, oldest first; what
is final never is: a client that leaves too many of those waiting is told to come back with the last id that it has.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamtask_contrib.events import (
    BotStatusUpdate,
    ProcessingFailed,
    TranscriptionCompleted,
    TranslationCompleted,
    Word,
)

#: What a client is told. `partial` to `failed` are results; a bot has `status` and `ended`, a live session the others.
Kind = Literal[
    "partial",
    "final",
    "translation",
    "failed",
    "gap",
    "ready",
    "ack",
    "status",
    "ended",
    "backpressure",
    "pong",
    "error",
]
Result = TranscriptionCompleted | TranslationCompleted | ProcessingFailed
_KINDS: Mapping[type[Result], Kind] = {
    TranscriptionCompleted: "final",
    TranslationCompleted: "translation",
    ProcessingFailed: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something to tell a client."""

    kind: Kind
    #: The JSON.
    text: str
    #: The entry id of a result, to go on behind; empty for what cannot be replayed.
    id: str = ""
    #: The result that it tells of, if it does.
    result: Result | None = None
    #: The status of a bot that it tells of, if it does.
    status: BotStatusUpdate | None = None

    @property
    def session_id(self) -> str:
        """Of the result; empty where there is none."""
        return "" if self.result is None else self.result.session_id

    @property
    def is_passing(self) -> bool:
        """It may be dropped: the next one says more."""
        return self.kind == "partial" or (self.result is not None and self.result.is_partial)


def tell(kind: Kind, **facts: object) -> Message:
    """A message that is no result."""
    return Message(kind=kind, text=_json({"type": kind} | facts))


def message_of(result: Result, *, entry_id: str) -> Message:
    """A result as a message."""
    facts = result.model_dump(mode="json", exclude={"user_id", "segments_uri", "edges"})
    if getattr(result, "segments_uri", ""):
        # They are too many for an event, and so for a message.
        facts["segments_left_out"] = True
    kind = _KINDS[type(result)]
    return Message(kind=kind, id=entry_id, result=result, text=_json({"type": kind, "id": entry_id} | facts))


def status_message(status: BotStatusUpdate) -> Message:
    """The status of a bot as a message."""
    return Message(kind="status", status=status, text=_json({"type": "status"} | status.model_dump(mode="json")))


def partial_of(result: TranscriptionCompleted, stable: Sequence[Word], tentative: Sequence[Word]) -> Message:
    """What is still being spoken: which words will stay, and which may still change."""
    facts = {
        "type": "partial",
        "session_id": result.session_id,
        "chunk_id": result.chunk_id,
        "sequence": result.sequence,
        "start": result.start,
        "end": result.end,
        "language": result.language,
        "stable": _text(stable),
        "tentative": _text(tentative),
        "speaker": result.segments[0].speaker if result.segments else None,
        "speakers": result.speaker_map.speakers,
    }
    return Message(kind="partial", result=result, text=_json(facts))


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words).strip()


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


class BehindError(Exception):
    """A client has left too many finals waiting. Its connection ends; it comes back with the last id that it has."""

    def __init__(self, last_id: str) -> None:
        super().__init__(f"too slow: come back with after={last_id}")
        self.last_id = last_id


class Mailbox:
    """What waits for one client. Filled without waiting, emptied by the one task that sends.

    `earlier`: results to be replayed first; the client asked for them, so that there may be more than the limit.
    """

    def __init__(
        self, *, max_partials: int, max_finals: int, earlier: Sequence[Message] = (), last_id: str = ""
    ) -> None:
        self._max_partials = max_partials
        self._max_finals = max_finals
        self._earlier = deque(earlier)
        self._waiting: deque[Message] = deque()
        self._partials = 0
        self._last_id = last_id
        self._filled = asyncio.Event()
        if earlier:
            self._filled.set()
        #: Set when finals were refused: nothing more is delivered.
        self.is_behind = asyncio.Event()

    def put(self, message: Message) -> None:
        """Let a message wait, or note that the client is behind."""
        if self.is_behind.is_set():
            return
        if message.is_passing:
            self._put_passing(message)
        elif len(self._waiting) - self._partials >= self._max_finals:
            self._waiting.clear()
            self._earlier.clear()
            self.is_behind.set()
        else:
            self._waiting.append(message)
        self._filled.set()

    def _put_passing(self, message: Message) -> None:
        if self._partials >= self._max_partials:
            oldest = next(place for place, waiting in enumerate(self._waiting) if waiting.is_passing)
            del self._waiting[oldest]
            self._partials -= 1
        self._waiting.append(message)
        self._partials += 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._earlier or self._waiting)

    async def get(self) -> Message:
        """The next message. Raises `BehindError`."""
        while self.is_empty:
            if self.is_behind.is_set():
                raise self.behind()
            self._filled.clear()
            await self._filled.wait()
        message = (self._earlier or self._waiting).popleft()
        if message.is_passing:
            self._partials -= 1
        self._last_id = message.id or self._last_id
        return message

    def behind(self) -> BehindError:
        """What the client is told when it is behind."""
        return BehindError(self._last_id or "0")
