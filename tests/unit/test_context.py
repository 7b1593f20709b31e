"""What a handler's context takes and refuses, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from streamtask import App, ConfigurationError, Context, Event, Retry
from streamtask.context import MAX_STATE, BlockingContext, decode_state
from streamtask.envelope import Envelope
from streamtask.envelope import decode as decode_envelope
from streamtask.transport.values import Delivery, Progress
from tests.chaos.workers import until

ENVELOPE = decode_envelope(
    b'{"schema_version": "v1", "event_id": "e", "event_type": "Chunk", "source": "s", "trace_id": "t",'
    b' "timestamp": "2024-10-19T12:34:56.789Z", "payload": {}}'
)


class Chunk(Event, stream="context-chunks"):
    n: int


class Notes:
    """What was kept."""

    def __init__(self) -> None:
        self.states: list[bytes] = []
        self.progress: list[Progress] = []

    async def save(self, delivery: Delivery, state: bytes) -> None:
        self.states.append(state)

    def save_blocking(self, delivery: Delivery, state: bytes) -> None:
        self.states.append(state)

    def report(self, delivery: Delivery, event_id: str, progress: Progress) -> None:
        self.progress.append(progress)


def context_of(notes: Notes, state: bytes | None = None) -> Context:
    delivery = Delivery("context-chunks", "g", "1-0", "a", [])
    context = Context(ENVELOPE, 1, App("c", broker="memory://"), delivery, notes)
    context.state = decode_state(state)
    return context


@pytest.mark.parametrize(
    "state", [None, 7, 0.5, "grüße", [1, [2]], {"at": 12.5, "done": [True, None]}, "x" * (MAX_STATE - 2)]
)
async def test_what_is_plain_json_comes_back_as_it_was(state: Any) -> None:
    notes = Notes()
    await context_of(notes).checkpoint(state)

    assert context_of(notes, notes.states[0]).state == state


@pytest.mark.parametrize("state", [b"bytes", {1, 2}, date(2026, 1, 1), math.nan, math.inf, {"at": object()}, "\ud800"])
async def test_what_is_no_plain_json_is_refused(state: Any) -> None:
    notes = Notes()
    with pytest.raises(ValueError, match="plain JSON"):
        await context_of(notes).checkpoint(state)

    assert notes.states == []


@pytest.mark.parametrize("state", ["x" * (MAX_STATE - 1), "ü" * (MAX_STATE // 2)])
async def test_what_is_too_large_is_refused_with_the_limit(state: str) -> None:
    with pytest.raises(ValueError, match=r"at most 262144 bytes of JSON, and this has 26214[56]"):
        await context_of(Notes()).checkpoint(state)


async def test_there_is_no_state_before_the_first_checkpoint() -> None:
    assert context_of(Notes()).state is None


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_is_from_0_to_1(fraction: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        context_of(Notes()).progress(fraction)


def test_progress_is_kept_with_the_beginning_of_its_message() -> None:
    notes = Notes()
    context_of(notes).progress(1, "x" * 1000)

    assert notes.progress == [Progress(1.0, "x" * 200)]


def test_a_message_that_is_no_text_is_escaped() -> None:
    notes = Notes()
    context_of(notes).progress(0, "file\udcff")

    assert notes.progress == [Progress(0.0, r"file\udcff")]


async def test_the_blocking_twin_names_the_async_form_on_a_loop() -> None:
    with pytest.raises(ConfigurationError, match=r"await ctx.checkpoint\(...\)"):
        context_of(Notes()).sync.checkpoint(1)


def test_the_blocking_twin_keeps_states_and_publishes() -> None:
    notes = Notes()
    sync = context_of(notes).sync
    sync.checkpoint({"n": 1})

    assert isinstance(sync, BlockingContext)
    assert notes.states == [b'{"n":1}']


def test_a_context_that_no_worker_has_made_says_so() -> None:
    envelope: Envelope = ENVELOPE
    with pytest.raises(ConfigurationError, match="not made by a worker"):
        Context(envelope, 1, App("c", broker="memory://")).progress(0.5)


def in_a_thread(notes: list[Any]) -> Callable[[Chunk, Context], None]:
    def handle(chunk: Chunk, ctx: Context) -> None:
        notes.append((ctx.attempt, ctx.state))
        ctx.progress(0.5, "half")
        ctx.sync.checkpoint({"done": ctx.attempt})
        if ctx.attempt < 3:
            raise OSError

    return handle


def on_the_loop(notes: list[Any]) -> Callable[[Chunk, Context], Any]:
    async def handle(chunk: Chunk, ctx: Context) -> None:
        notes.append((ctx.attempt, ctx.state))
        ctx.progress(0.5, "half")
        await ctx.checkpoint({"done": ctx.attempt})
        if ctx.attempt < 3:
            raise OSError

    return handle


@pytest.mark.parametrize("make", [in_a_thread, on_the_loop])
async def test_each_attempt_finds_what_the_one_before_it_has_checkpointed(make: Any) -> None:
    notes: list[Any] = []
    app = App("context", broker="memory://")
    app.on(Chunk, retry=Retry(3, backoff=0.0))(make(notes))

    async def is_done() -> bool:
        [stats] = await app.transport.stats("context-chunks", "context")
        return len(notes) == 3 and stats.pending == 0

    async with app, app.worker():
        await app.publish(Chunk(n=1))
        await until(is_done, 5)

    assert notes == [(1, None), (2, {"done": 1}), (3, {"done": 2})]
