"""Lines become events; what is none is told, and costs the others nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from streamtask import App, Event, StoreFullError, StreamtaskError, TransportError
from streamtask.feed import Feed, Refused
from streamtask.transport.values import Outgoing


class Placed(Event, stream="feed-orders"):
    n: int
    text: str = ""


@pytest.fixture
async def app() -> AsyncIterator[App]:
    made = App("feed", broker="memory://", max_event_bytes=2000)
    async with made:
        yield made


async def stored(app: App) -> list[int]:
    entries = await app.transport.read("feed-orders", after="0", count=10_000, wait=0)
    return [app.broker.decode(entry).payload["n"] for entry in entries]


def line(n: int, text: str = "") -> bytes:
    return f'{{"n": {n}, "text": "{text}"}}'.encode()


async def test_lines_are_published_in_order_with_their_ids(app: App) -> None:
    feed = Feed(app, Placed)

    ids = await feed.take([line(n) for n in range(1200)])

    assert await stored(app) == list(range(1200))
    assert len(set(ids)) == feed.published == 1200
    assert feed.refused == []


async def test_a_bad_line_is_told_with_its_number_and_the_others_are_published(app: App) -> None:
    feed = Feed(app, Placed)

    await feed.take([line(0), b"nonsense", b"", b"  ", line(1)])
    await feed.take([b'{"n": "x"}', b"\xff", b"[]", line(2) + b"\r"])

    assert await stored(app) == [0, 1, 2]
    assert feed.published == 3
    assert [refused.line for refused in feed.refused] == [2, 6, 7, 8]
    assert "n: Input should be a valid integer" in feed.refused[1].reason


async def test_a_line_that_no_consumer_could_read_does_not_keep_its_batch(app: App) -> None:
    feed = Feed(app, Placed)

    ids = await feed.take([line(0), line(1, "x" * 3000), b"bad", line(2)])

    assert await stored(app) == [0, 2]
    assert len(ids) == 2
    assert [refused.line for refused in feed.refused] == [2, 3]
    assert "limit is 2000" in feed.refused[0].reason


async def test_what_is_not_known_to_be_stored_is_published_again_and_stands_there_once(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = app.transport.publish

    async def break_off(items: Sequence[Outgoing]) -> list[str | Exception]:
        if len(items) > 1:
            await publish(items[:2])
            raise TransportError("the connection broke after two of them")
        return await publish(items)

    monkeypatch.setattr(app.transport, "publish", break_off)
    feed = Feed(app, Placed)

    ids = await feed.take([line(n) for n in range(5)])

    assert await stored(app) == list(range(5))
    assert (len(set(ids)), feed.published) == (5, 5)


async def test_what_the_server_refused_of_a_batch_is_published_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = app.transport.publish

    async def fill_up(items: Sequence[Outgoing]) -> list[str | Exception]:
        if len(items) > 1:
            full = StoreFullError("full", event_id=items[1].event_id)
            [first, third] = await publish([items[0], items[2]])
            return [first, full, third]
        return await publish(items)

    monkeypatch.setattr(app.transport, "publish", fill_up)
    feed = Feed(app, Placed)

    await feed.take([line(n) for n in range(3)])

    assert sorted(await stored(app)) == [0, 1, 2]
    assert feed.published == 3


async def test_what_cannot_be_stored_ends_the_feed_and_names_the_lines(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(app, Placed)
    await feed.take([line(0)])

    async def break_off(items: Sequence[Outgoing]) -> list[str | Exception]:
        raise TransportError("the connection broke")

    monkeypatch.setattr(app.transport, "publish", break_off)
    with pytest.raises(StreamtaskError, match="1 events were published; lines 2 to 3 are not known to be stored"):
        await feed.take([line(1), line(2)])


def test_a_refusal_is_a_value() -> None:
    assert Refused(1, "x") == Refused(1, "x")
