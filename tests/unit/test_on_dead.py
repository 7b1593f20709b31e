"""`on_dead`: what a handler has to say about the end of an event stands beside the dead letter, or nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streamtask import App, ConfigurationError, DeadEvent, Event, Reject, Retry
from streamtask.envelope import Envelope
from streamtask.transport.values import DeadLetter, Outgoing
from tests.chaos.workers import until

AGAIN = Retry(2, backoff=0.0)


class Chunk(Event, stream="chunks"):
    n: int


class Failed(Event, stream="results"):
    n: int
    reason: str
    error: str
    attempts: int


class Note(Event, stream="notes"):
    text: str


def say(event: Chunk, dead: DeadEvent) -> Failed:
    return Failed(n=event.n, reason=dead.reason, error=dead.error, attempts=dead.attempts)


def app_of(handler: Callable[[Chunk], Any], **options: Any) -> App:
    app = App("on-dead", broker="memory://")

    @app.on(Chunk, **options)
    async def handle(event: Chunk) -> Any:
        return await handler(event)

    return app


async def fail(event: Chunk) -> None:
    raise OSError("redis://user:secret@host is away")


async def refuse(event: Chunk) -> None:
    raise Reject("not speech")


async def hang(event: Chunk) -> None:
    await asyncio.sleep(3600)


async def letters(app: App) -> list[DeadLetter]:
    assert app.transport.dead_letters is not None
    return await app.transport.dead_letters.page("chunks", after="", limit=100)


async def envelopes(app: App, stream: str = "results") -> list[Envelope]:
    entries = await app.transport.read(stream, after="0", count=100, wait=0)
    return [app.broker.decode(entry) for entry in entries]


async def die(app: App, n: int = 1) -> str:
    """Publish an event and wait for its dead letter; the event's id."""
    event_id = await app.publish(Chunk(n=n))
    await until(lambda: has_died(app, event_id), 5)
    return event_id


async def has_died(app: App, event_id: str) -> bool:
    return event_id in {letter.event_id for letter in await letters(app)}


@pytest.fixture(params=["rejected", "max_attempts", "not_retryable", "timeout"])
def ended(request: pytest.FixtureRequest) -> tuple[str, App, int]:
    """A way to end: the reason, an app, and the attempts it takes."""
    cases: dict[str, tuple[str, App, int]] = {
        "rejected": ("rejected", app_of(refuse, on_dead=say), 1),
        "max_attempts": ("max_attempts", app_of(fail, retry=AGAIN, on_dead=say), 2),
        "not_retryable": ("not_retryable", app_of(fail, retry=Retry(5, retry_on=ValueError), on_dead=say), 1),
        "timeout": ("max_attempts", app_of(hang, retry=AGAIN, timeout=0.05, on_dead=say), 2),
    }
    return cases[request.param]


async def test_it_is_told_of_every_end_and_what_it_returns_is_published(ended: tuple[str, App, int]) -> None:
    reason, app, attempts = ended
    async with app, app.worker():
        event_id = await die(app)
        [letter], [said] = await letters(app), await envelopes(app)

    assert said.payload == {"n": 1, "reason": reason, "error": letter.error, "attempts": attempts}
    assert (letter.reason, letter.attempts) == (reason, attempts)
    assert "secret" not in letter.error
    assert said.causation_id == event_id


async def test_several_events_are_published_in_order_and_counted() -> None:
    app = app_of(refuse, on_dead=lambda event, dead: [Note(text="one"), Note(text="two")])
    async with app, app.worker():
        await die(app)
        texts = [envelope.payload["text"] for envelope in await envelopes(app, "notes")]

    assert texts == ["one", "two"]
    assert app.metrics.total("streamtask_published_total", stream="notes") == 2


async def test_nothing_is_published_where_it_has_nothing_to_say() -> None:
    app = app_of(refuse, on_dead=lambda event, dead: None)
    async with app, app.worker():
        await die(app)
        assert await envelopes(app) == []


def exit_(event: Chunk, dead: DeadEvent) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "on_dead",
    [
        lambda event, dead: 1 / 0,
        lambda event, dead: [say(event, dead), "no event"],
        lambda event, dead: [say(event, dead), Note(text="x" * 3_000_000)],
        exit_,
    ],
    ids=["raises", "returns no event", "returns one that cannot be published", "exits"],
)
async def test_what_goes_wrong_in_it_costs_its_events_and_no_dead_letter(
    on_dead: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(refuse, on_dead=on_dead)
    async with app, app.worker():
        await die(app)
        assert await envelopes(app) == []
        assert len(await letters(app)) == 1

    [line] = [record for record in caplog.records if record.message == "on_dead.failed"]
    assert line.__dict__["handler"].endswith("handle")
    assert line.exc_info is not None


async def test_it_is_not_told_of_a_payload_that_is_no_event() -> None:
    told: list[DeadEvent] = []
    app = app_of(refuse, on_dead=lambda event, dead: told.append(dead))
    body = (
        b'{"schema_version": "v1", "event_id": "e", "event_type": "Chunk", "source": "s", "trace_id": "t",'
        b' "timestamp": "2024-10-19T12:34:56.789Z", "payload": {"n": "no number"}}'
    )
    async with app, app.worker():
        await app.transport.publish([Outgoing(stream="chunks", body=body, event_id="e")])
        await until(lambda: has_died(app, "e"), 5)

    assert told == []


async def test_the_ids_of_its_events_are_their_own_and_the_same_at_each_repeat() -> None:
    event = Chunk(n=1)
    plain = app_of(refuse, on_dead=say)
    async with plain, plain.worker():
        event_id = await plain.publish(event)
        await until(lambda: has_died(plain, event_id), 5)
        [first] = await envelopes(plain)

    async def emit(event: Chunk) -> Note:
        return Note(text="done")

    emitting = app_of(emit, on_dead=say)
    async with emitting, emitting.worker():
        await emitting.publish(event, event_id=event_id)
        await until(lambda: has_notes(emitting), 5)
        [ordinary] = await envelopes(emitting, "notes")

    again = app_of(refuse, on_dead=say)
    async with again, again.worker():
        await again.publish(event, event_id=event_id)
        await until(lambda: has_died(again, event_id), 5)
        [second] = await envelopes(again)

    assert first.event_id == second.event_id != ordinary.event_id


async def has_notes(app: App) -> bool:
    return bool(await envelopes(app, "notes"))


async def test_one_that_is_replayed_and_dies_again_is_told_of_again() -> None:
    app = app_of(refuse, on_dead=say)
    async with app, app.worker():
        await die(app)
        assert app.transport.dead_letters is not None
        [letter] = await letters(app)
        await app.transport.dead_letters.replay("chunks", letter.dead_id)
        await until(lambda: count_is(app, 2), 5)
        first, second = await envelopes(app)

    assert first.event_id != second.event_id
    assert first.payload == second.payload


async def count_is(app: App, n: int) -> bool:
    return len(await envelopes(app)) == n


async def coroutine(event: Chunk, dead: DeadEvent) -> None: ...


@pytest.mark.parametrize("on_dead", ["say", coroutine])
def test_what_is_no_plain_function_is_refused_with_the_name_of_the_handler(on_dead: Any) -> None:
    with pytest.raises(ConfigurationError, match="handle: on_dead is a plain function"):
        app_of(refuse, on_dead=on_dead)
