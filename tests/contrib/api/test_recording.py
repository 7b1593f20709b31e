"""Recordings: a process that dies in the middle of a sentence is succeeded by one that goes on with it."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.api.recording import OvertakenError, Recording, StreamConfig
from streamtask_contrib.api.settings import ApiSettings
from streamtask_contrib.capture.register import Register, SessionTakenError
from streamtask_contrib.events import AudioChunkReceived

from streamtask import App
from tests.contrib.api.serving import RATE, tone

SETTINGS = ApiSettings(utterance=3.0, partial=0.0)


async def recording(app: App, *, user: str = "anna") -> Recording:
    made = Recording(app, SETTINGS, Register(app, "talk", ttl=60), user=user, config=StreamConfig())
    await made.begin()
    await made.open()
    return made


async def test_a_successor_goes_on_with_the_overlap_of_the_sentence(broker: str) -> None:
    audio = tone(12)
    async with App("test", broker=broker) as app:
        first = await recording(app)
        chunks = [chunk async for chunk in first.feed(audio[: 7 * RATE * 2])]
        # It dies here: what it had of the open utterance is gone.
        second = await recording(app)
        assert second.received_until == pytest.approx(chunks[-1].start + (chunks[-1].duration or 0) - 1.0, abs=0.03)
        chunks += [chunk async for chunk in second.feed(audio[round(second.received_until * RATE) * 2 :])]
        chunks.append(await second.finish())
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.audio_config.overlap for chunk in chunks} == {1.0}
    for before, after in itertools.pairwise(chunks):
        assert before.start + (before.duration or 0) - after.start == pytest.approx(1.0, abs=0.03)


async def test_of_two_that_are_at_it_one_is_overtaken_and_nothing_is_published_twice(broker: str) -> None:
    async with App("test", broker=broker) as app:
        one, other = await recording(app), await recording(app)
        assert [chunk async for chunk in one.feed(tone(4))]
        with pytest.raises(OvertakenError):
            _ = [chunk async for chunk in other.feed(tone(5))]
        published = await _published(app)
    assert [chunk.chunk_id for chunk in published] == ["talk-0"]


async def test_what_was_written_down_and_not_published_is_published_by_the_successor(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App("test", broker=broker) as app:
        first = await recording(app)
        with monkeypatch.context() as patch:
            patch.setattr("streamtask_contrib.api.recording.publish", _die)
            with pytest.raises(ConnectionError):
                _ = [chunk async for chunk in first.feed(tone(4))]
        assert await _published(app) == []
        await recording(app)
        await recording(app)
        assert [chunk.sequence for chunk in await _published(app)] == [0]


async def test_a_session_of_another_user_is_refused(broker: str) -> None:
    async with App("test", broker=broker) as app:
        await recording(app)
        with pytest.raises(SessionTakenError, match="not yours"):
            await recording(app, user="ben")


async def _die(*_: object) -> None:
    raise ConnectionError("killed here")


async def _published(app: App) -> list[AudioChunkReceived]:
    """Every chunk of the stream; the last of them is one of our own."""
    end = AudioChunkReceived(session_id="end", chunk_id="end")
    await app.publish(end)
    found = []
    async for stored in app.read("audio-ingest", after="0"):
        chunk = AudioChunkReceived.model_validate(stored.payload)
        if chunk.session_id != "end":
            found.append(chunk)
        elif stored.payload == end.model_dump(mode="json"):
            break
    return found
