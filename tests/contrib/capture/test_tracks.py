"""Several who speak at once: one row of chunks, in order, once each, whatever fails on the way."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from streamtask_contrib.bot.settings import BotSettings
from streamtask_contrib.capture import chunks
from streamtask_contrib.capture import tracks as module
from streamtask_contrib.capture.register import NOBODY, Register, SessionTakenError
from streamtask_contrib.capture.tracks import SessionEndedError, Tracks, end_session, shown, tracks_of
from streamtask_contrib.events import AudioChunkReceived, AudioConfig, BotRequested, ProcessingFlags
from streamtask_contrib.transcript import Sessions

from streamtask import App, PublishError, TransportError
from tests.chaos.conftest import Measured
from tests.chaos.workers import Emitted
from tests.contrib.pcm import RATE, quiet, tone

SETTINGS = BotSettings()
WORD = tone(0.6) + quiet(0.9)


class Room:
    """A broker, and a request for a bot."""

    def __init__(self, app: App, url: str) -> None:
        self.app = app
        self._url = url

    def request(self, **wanted: Any) -> BotRequested:
        fields = {"bot_id": "bot", "session_id": "talk", "meeting_url": "odd:"} | wanted
        return BotRequested.model_validate(fields)

    async def tracks(self, *, guard: Callable[[], None] = lambda: None, **wanted: Any) -> Tracks:
        """Tracks that are open, with the session's clock at 0 or later."""
        made = tracks_of(self.app, self.request(**wanted), SETTINGS, guard=guard)
        await made.open()
        await made.start_clock()
        return made

    async def published(self) -> list[AudioChunkReceived]:
        async with Emitted(self._url, "audio-ingest") as emitted:
            return [AudioChunkReceived.model_validate(each) for each in await emitted.all()]

    async def in_order(self) -> list[AudioChunkReceived]:
        """What was published; it is what is written down, without a gap, each once."""
        chunks = await self.published()
        assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
        assert chunks == [entry.chunk for entry in await Register(self.app, "talk", ttl=60).chunks()]
        return chunks


@pytest.fixture
async def room(broker: str) -> AsyncIterator[Room]:
    async with App("test", broker=broker) as app:
        yield Room(app, broker)


def say(tracks: Tracks, track: str, at: float, pcm: bytes) -> None:
    """Feed something in portions of a tenth of a second."""
    step = RATE // 10 * 2
    for number, place in enumerate(range(0, len(pcm), step)):
        tracks.feed(track, at + number / 10, pcm[place : place + step])


# ── who and when ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_who_speaks_has_chunks_of_their_own(room: Room) -> None:
    tracks = await room.tracks(user_id="carla", language="en")
    tracks.join("a", "Anna")
    tracks.join("b", "Ben")
    for second in range(0, 6, 2):
        say(tracks, "a", second, tone(0.8) + quiet(1.2))
        say(tracks, "b", second, quiet(1.0) + tone(0.8) + quiet(0.2))
    await tracks.write()
    await tracks.end()
    chunks = await room.in_order()
    assert [chunk.speaker for chunk in chunks[:-1]].count("Anna") == 3
    assert [chunk.speaker for chunk in chunks[:-1]].count("Ben") == 3
    starts = {name: [c.start for c in chunks if c.speaker == name] for name in ("Anna", "Ben")}
    assert starts["Anna"] == pytest.approx([0.0, 1.8, 3.8], abs=0.15)
    assert starts["Ben"] == pytest.approx([0.8, 2.8, 4.8], abs=0.15)
    assert [chunk.is_last for chunk in chunks] == [False] * 6 + [True]
    last = chunks[-1]
    assert last.speaker is None
    assert last.start >= max(chunk.start + (chunk.duration or 0) for chunk in chunks[:-1]) - 0.01
    assert {(chunk.source_type, chunk.user_id, chunk.language) for chunk in chunks} == {("bot", "carla", "en")}
    assert not any(chunk.processing_flags.diarize for chunk in chunks)


async def test_two_of_one_name_are_told_apart_as_long_as_both_are_there(room: Room) -> None:
    tracks = await room.tracks()
    assert tracks.join("1", "Anna") == "Anna"
    assert tracks.join("2", " Anna\n") == "Anna (2)"
    assert tracks.join("3", "Anna") == "Anna (3)"
    tracks.leave("1")
    assert tracks.join("4", "Anna") == "Anna"
    assert tracks.join("2", "Anna") == "Anna (2)"


@pytest.mark.parametrize(
    ("name", "told"),
    [("Anna", "Anna"), (" An\x00na\n Bell ", "An na Bell"), ("", "Participant"), ("\u202e", "Participant")],
)
def test_a_name_is_one_line_and_never_empty(name: str, told: str) -> None:
    assert shown(name) == told
    assert len(shown(name * 100)) <= 100


async def test_who_leaves_has_their_last_words_heard(room: Room) -> None:
    tracks = await room.tracks()
    tracks.join("a", "Anna")
    say(tracks, "a", 0.0, quiet(0.5) + tone(0.7))
    assert tracks.is_anyone_speaking
    tracks.leave("a")
    await tracks.write()
    [chunk] = await room.in_order()
    assert (chunk.speaker, chunk.duration) == ("Anna", pytest.approx(1.2, abs=0.05))


async def test_who_says_nothing_for_long_has_ended_their_sentence(room: Room) -> None:
    tracks = await room.tracks()
    tracks.join("a", "Anna")
    say(tracks, "a", 0.0, tone(1.0))
    say(tracks, "a", 30.0, tone(1.0))
    tracks.leave("a")
    await tracks.write()
    first, second = await room.in_order()
    assert (first.start, first.duration) == (0.0, pytest.approx(1.0, abs=0.05))
    assert (second.start, second.duration) == (pytest.approx(30.0, abs=0.1), pytest.approx(1.0, abs=0.1))


async def test_who_gives_nothing_any_more_is_not_waited_for(room: Room) -> None:
    """A microphone that is switched off in a sentence: nothing says that it was the end."""
    now = 0.0
    tracks = tracks_of(room.app, room.request(), SETTINGS)
    tracks._clock = lambda: now
    await tracks.open()
    await tracks.start_clock()
    tracks.join("a", "Anna")
    say(tracks, "a", tracks.now, tone(1.0))
    now = 2.0
    tracks.flush_stalled()
    assert not tracks.waiting
    now = 5.0
    tracks.flush_stalled()
    assert tracks.waiting == pytest.approx(1.0, abs=0.05)


async def test_words_stand_where_they_were_said_though_the_clock_drifts(room: Room, measured: Measured) -> None:
    """A sound card that is two thousandths too slow, ten minutes long, a word every ten seconds."""
    drift, period = 1.002, 10.0
    tracks = await room.tracks()
    tracks.join("a", "Anna")
    step = RATE // 5 * 2
    said = (tone(0.6) + quiet(period - 0.6)) * 60
    for number, place in enumerate(range(0, len(said), step)):
        tracks.feed("a", number * 0.2 * drift, said[place : place + step])
        if tracks.waiting > 60:
            await tracks.write()
    await tracks.write()
    chunks = await room.in_order()
    # Each begins so long before its word.
    lead = 0.24
    off = [chunk.start + lead - number * period * drift for number, chunk in enumerate(chunks) if number]
    measured("seconds off, at most", max(map(abs, off)))
    assert len(chunks) == 60
    assert max(map(abs, off)) < 0.1


@pytest.mark.parametrize("at", [0.0, 0.001, 0.2, 0.3])
async def test_a_long_speech_is_cut_with_the_overlap_that_is_asked_for(at: float, room: Room) -> None:
    tracks = await room.tracks(audio_config=AudioConfig(overlap=0.5))
    tracks.join("a", "Anna")
    say(tracks, "a", at, tone(20))
    await tracks.end()
    *spoken, _ = await room.in_order()
    assert len(spoken) > 1
    assert {chunk.audio_config.overlap for chunk in spoken} == {0.5}
    for before, after in itertools.pairwise(spoken):
        assert before.start + (before.duration or 0) - after.start == pytest.approx(0.5, abs=0.03)


async def test_what_is_wanted_of_a_session_is_written_down_and_stands_on_each_chunk(room: Room) -> None:
    flags = ProcessingFlags(transcribe=False, translate=True, target_languages=["fr", "de"], diarize=True)
    tracks = await room.tracks(processing_flags=flags)
    await tracks.end()
    [chunk] = await room.in_order()
    assert chunk.processing_flags == flags.model_copy(update={"diarize": False})
    assert chunk.user_id == NOBODY
    state = await Sessions(room.app).load("talk")
    assert state is not None
    assert (state.facts.source_type, state.facts.target_languages) == ("bot", ["fr", "de"])


# ── what fails ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["store", "write", "publish"])
async def test_a_broker_that_is_away_costs_no_chunk_and_doubles_none(
    room: Room, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tracks = await room.tracks()
    tracks.join("a", "Anna")
    say(tracks, "a", 0.0, WORD * 4)
    count = itertools.count()

    def failing(call: Callable[..., Any], error: Exception, *, late: bool) -> Callable[..., Any]:
        async def fails(*args: Any, **options: Any) -> Any:
            is_odd = next(count) % 2 == 0
            if is_odd and not late:
                raise error
            answer = await call(*args, **options)
            if is_odd:
                raise error
            return answer

        return fails

    away = TransportError("away")
    if step == "write":
        monkeypatch.setattr(Register, "write", failing(Register.write, away, late=True))
    else:
        error = away if step == "store" else PublishError("away", event_id="x")
        monkeypatch.setattr(module, step, failing(getattr(module, step), error, late=step == "publish"))
    failures = 0
    while tracks.waiting:
        try:
            await tracks.write()
        except (TransportError, PublishError):
            failures += 1
            assert failures < 10
    assert failures == 4
    assert len(await room.in_order()) == 4


async def test_what_was_written_down_and_not_published_is_published_by_the_successor(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await room.tracks()
    first.join("a", "Anna")
    say(first, "a", 0.0, WORD)
    with monkeypatch.context() as patch:
        patch.setattr("streamtask_contrib.capture.tracks.publish", _die)
        with pytest.raises(ConnectionError):
            await first.write()
    assert await room.published() == []
    second = await room.tracks()
    assert second.sequence == 1
    assert len(await room.in_order()) == 1


async def test_a_successor_goes_on_behind_in_sequence_and_time(room: Room) -> None:
    first = await room.tracks()
    first.join("a", "Anna")
    say(first, "a", 40.0, WORD)
    await first.write()
    second = await room.tracks()
    # However little of the wall clock has passed: nothing is said twice at one moment.
    assert second.now >= 40.6
    second.join("a", "Anna")
    say(second, "a", second.now, WORD)
    await second.end()
    chunks = await room.in_order()
    assert [chunk.is_last for chunk in chunks] == [False, False, True]
    assert chunks[1].start >= chunks[0].start + (chunks[0].duration or 0)


async def test_of_two_that_write_at_once_neither_loses_or_doubles_a_chunk(room: Room) -> None:
    """It is the lease that keeps them apart; that one was let through for a moment must cost nothing."""
    one, other = await room.tracks(), await room.tracks()
    for tracks in (one, other):
        tracks.join("a", "Anna")
        say(tracks, "a", tracks.now, WORD * 2)
    await one.write()
    await other.write()
    chunks = await room.in_order()
    assert len(chunks) == 4
    assert len({chunk.storage_uri for chunk in chunks}) == 4


@pytest.mark.parametrize(("steps", "stored", "written"), [(0, 0, 0), (1, 1, 0), (2, 1, 1)])
async def test_one_that_may_not_any_more_does_nothing_further(
    room: Room, monkeypatch: pytest.MonkeyPatch, steps: int, stored: int, written: int
) -> None:
    """It is asked before each step: any of them may have taken longer than the lease."""
    allowed = [True] * steps
    blobs: list[str] = []

    def guard() -> None:
        if not allowed:
            raise PermissionError
        allowed.pop()

    async def store(*args: Any, **options: Any) -> Any:
        blobs.append("stored")
        return await chunks.store(*args, **options)

    monkeypatch.setattr(module, "store", store)
    tracks = await room.tracks(guard=guard)
    tracks.join("a", "Anna")
    say(tracks, "a", 0.0, WORD)
    with pytest.raises(PermissionError):
        await tracks.write()
    assert len(blobs) == stored
    assert len(await Register(room.app, "talk", ttl=60).chunks()) == written
    assert await room.published() == []


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_is_ended_once_by_whoever_comes_first(room: Room) -> None:
    tracks = await room.tracks()
    tracks.join("a", "Anna")
    say(tracks, "a", 0.0, WORD)
    await tracks.write()
    await end_session(room.app, room.request(), SETTINGS)
    await end_session(room.app, room.request(), SETTINGS)
    assert [chunk.is_last for chunk in await room.in_order()] == [False, True]
    say(tracks, "a", 5.0, WORD)
    with pytest.raises(SessionEndedError):
        await tracks.write()
    assert [chunk.is_last for chunk in await room.in_order()] == [False, True]


async def test_a_bot_that_has_never_heard_anything_has_a_session_that_is_over(room: Room) -> None:
    await end_session(room.app, room.request(), SETTINGS)
    [chunk] = await room.in_order()
    assert chunk.is_last
    assert chunk.start == 0


async def test_a_session_of_another_is_neither_spoken_into_nor_ended(room: Room) -> None:
    await room.tracks(user_id="carla")
    with pytest.raises(SessionTakenError):
        await room.tracks(user_id="carla", bot_id="other")
    await end_session(room.app, room.request(bot_id="other", user_id="carla"), SETTINGS)
    await end_session(room.app, room.request(user_id="dora"), SETTINGS)
    await end_session(room.app, room.request(user_id="carla", language="klingon"), SETTINGS)
    assert await room.published() == []


async def _die(*_: object) -> None:
    raise ConnectionError("killed here")
