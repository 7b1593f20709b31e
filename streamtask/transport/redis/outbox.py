"""Emits for streams of another slot: they wait beside the stream of their cause until a worker has published them.

The settle script puts them there in the same step as the ack. Publishing leaves a mark at the target, by the emit's
event id; only then the entry is deleted, and only after that the mark begins to run out. So whoever publishes an entry
again (a relay that died in between, two at once) finds the mark, and the event stands in its stream once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from streamtask.errors import TransportError
from streamtask.transport.redis import keys
from streamtask.transport.redis.client import Caller, Script
from streamtask.transport.redis.line import Argument
from streamtask.transport.values import Outgoing, Relayed

#: Entries that are published in one go.
_PAGE = 200
#: Seconds that a relay has its turn without asking for the next page.
_TURN = 5.0
#: Seconds for which a mark stands while its entry may be in the outbox still: longer than a server may be away.
_MARK = 7 * 86_400.0
#: And from when the entry is deleted: longer than a relay that had read it before may take.
_MARK_AFTERWARDS = 600.0
#: Words before those of the entry itself: target, event id, delay, each with its name.
_ADDRESS = 6


class RedisOutbox:
    """`Outbox` on a cluster."""

    def __init__(
        self, caller: Caller, publish: Callable[[Sequence[Outgoing]], Awaitable[list[str | Exception]]]
    ) -> None:
        self._caller = caller
        self._publish = publish
        self._read = Script("outbox")
        self._put_beside: set[str] = set()
        self._some = asyncio.Event()

    def put(self, stream: str) -> None:
        """Something may have been put beside this stream."""
        self._put_beside.add(stream)
        self._some.set()

    async def news(self, *, within: float) -> set[str]:
        """See `Outbox.news`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._some.wait()
        self._some.clear()
        found, self._put_beside = self._put_beside, set()
        return found

    async def waiting(self, streams: Sequence[str]) -> dict[str, int]:
        """See `Outbox.waiting`."""
        lengths = await self._caller.every([["XLEN", keys.outbox(name)] for name in streams])
        return {name: length for name, length in zip(streams, lengths, strict=True) if length}

    async def relay(self, stream: str, owner: str) -> Relayed:
        """See `Outbox.relay`."""
        after, count = "0-0", 0
        held_back: dict[str, Exception] = {}
        while True:
            page = await self._page(stream, owner, after)
            if not page:
                return Relayed(count=count, held_back=held_back)
            after = page[-1][0].decode()
            count += await self._deliver(stream, [_letter(*entry) for entry in page], held_back)

    async def _page(self, stream: str, owner: str, after: str) -> list[Any]:
        clock = asyncio.get_running_loop().time
        while True:
            asked = clock()
            args: list[Argument] = [owner, after, _PAGE, round(_TURN * 1000)]
            page = await self._caller.run(self._read, [keys.outbox(stream), keys.relaying(stream)], args)
            # A process that was stopped meanwhile holds a page that others have long published.
            if clock() - asked < _TURN:
                return page or []

    async def _deliver(self, stream: str, page: Sequence[_Letter], held_back: dict[str, Exception]) -> int:
        """Publish a page but what is for a target that has refused something; then forget what is published."""
        sent = []
        for letter in page:
            if letter.item is None:
                held_back.setdefault(letter.target, TransportError(f"{letter.entry_id} is no entry of an outbox"))
            elif letter.target not in held_back:
                sent.append((letter.entry_id, letter.item))
        done = []
        for (entry_id, item), result in zip(sent, await self._publish([item for _, item in sent]), strict=True):
            if isinstance(result, Exception):
                held_back.setdefault(item.stream, result)
            else:
                done.append((entry_id, item))
        if done:
            await self._caller.call("XDEL", keys.outbox(stream), *(entry_id for entry_id, _ in done))
            marks = [keys.published(item.stream, item.dedup_key or "") for _, item in done]
            await self._caller.many([["PEXPIRE", mark, round(_MARK_AFTERWARDS * 1000)] for mark in marks])
        return len(done)


@dataclass(frozen=True, slots=True)
class _Letter:
    """One entry of an outbox."""

    entry_id: str
    target: str
    #: None where somebody else has written it.
    item: Outgoing | None


def _letter(entry_id: bytes, words: Sequence[bytes]) -> _Letter:
    address = dict(zip(words[:_ADDRESS:2], words[1:_ADDRESS:2], strict=False))
    entry = dict(zip(words[_ADDRESS::2], words[_ADDRESS + 1 :: 2], strict=False))
    try:
        target, event_id = address[b"target"].decode(), address[b"event_id"].decode()
        item = Outgoing(
            stream=target,
            body=entry[b"envelope"],
            event_id=event_id,
            content_type=_text(entry.get(b"content_type")),
            content_encoding=_text(entry.get(b"content_encoding")),
            at=_due(entry_id, address[b"delay"]),
            dedup_key=f"~emit:{event_id}",
            dedup_window=_MARK,
        )
    except (KeyError, ValueError, OverflowError):
        return _Letter(entry_id.decode(), "", None)
    return _Letter(entry_id.decode(), target, item)


def _text(word: bytes | None) -> str | None:
    return None if word is None else word.decode()


def _due(entry_id: bytes, delay: bytes) -> datetime | None:
    """When a delayed emit is due: counted from when it was emitted, which is when its entry was written."""
    if not delay:
        return None
    emitted = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC)
    return emitted + timedelta(milliseconds=int(delay))
