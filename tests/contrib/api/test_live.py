"""Live audio over a socket: words come back, nothing is lost or doubled whatever happens to the connection."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from streamtask_contrib.events import AudioChunkReceived
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.contrib.api.serving import (
    RATE,
    begin,
    control,
    hear,
    hear_all,
    measured,
    quiet,
    say,
    served,
    tone,
    until,
    worker_app,
)

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

#: Two utterances.
SPEECH = quiet(0.5) + tone(1.5) + quiet(1) + tone(1) + quiet(0.2)


def of_type(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


async def test_words_come_as_they_are_spoken_and_the_socket_closes_after_the_last(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    async with served(broker) as api, worker_app(broker, seen=seen).worker():
        async with api.live() as socket:
            ready = await begin(socket, translate=["fr", "de"], language="en")
            await say(socket, SPEECH)
            await control(socket, "end")
            messages = await hear_all(socket)
        assert socket.close_code == 1000

    finals, translations = of_type(messages, "final"), of_type(messages, "translation")
    assert [final["text"] for final in finals] == ["word0", "word1"]
    assert {(one["sequence"], one["target_language"]) for one in translations} == {
        (n, language) for n in (0, 1) for language in ("fr", "de")
    }
    assert [ack["sequence"] for ack in of_type(messages, "ack") if "sequence" in ack] == [0, 1]
    assert of_type(messages, "partial"), "nothing was shown while it was spoken"
    assert messages[-1] == {"type": "status", "state": "complete"}
    assert ready["received_until"] == 0
    whole = [chunk for chunk in seen if not chunk.is_partial]
    assert [chunk.is_last for chunk in whole] == [False, True]
    # Cut in the silence: what was quiet belongs to neither, and nothing to both.
    assert whole[0].start < 0.5 < whole[0].start + (whole[0].duration or 0)
    assert whole[0].start + (whole[0].duration or 0) <= whole[1].start + 1e-6


async def test_partials_say_what_is_stable(broker: str) -> None:
    async with served(broker, partial=0.2) as api, worker_app(broker).worker(), api.live() as socket:
        await begin(socket)
        said = asyncio.create_task(say(socket, tone(3)))
        first = await hear(socket, "partial")
        assert (first["stable"], first["tentative"]) == ("", "word0")
        second = await hear(socket, "partial")
        assert (second["stable"], second["tentative"]) == ("word0", "")
        await said
        await control(socket, "end")
        assert of_type(await hear_all(socket), "final")


async def test_a_flush_ends_the_utterance_at_once(broker: str) -> None:
    async with served(broker) as api, api.live() as socket:
        await begin(socket)
        await say(socket, tone(1))
        await control(socket, "flush")
        ack = await hear(socket, "ack")
        assert (ack["sequence"], ack["received_until"]) == (0, 1.0)
        await control(socket, "ping")
        await hear(socket, "pong")


async def test_who_speaks_on_is_cut_with_an_overlap(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    settings = {"utterance": 3.0, "partial": 0}
    async with served(broker, **settings) as api, worker_app(broker, seen=seen).worker(), api.live() as socket:
        await begin(socket)
        await say(socket, tone(8))
        await control(socket, "end")
        await hear_all(socket)
    assert len(seen) > 2
    for before, after in itertools.pairwise(seen):
        end = before.start + (before.duration or 0)
        assert end - after.start == pytest.approx(1.0, abs=0.03)
        assert before.audio_config.overlap == after.audio_config.overlap == 1.0
    assert seen[-1].is_last


async def test_a_client_that_comes_back_goes_on_where_it_was(broker: str) -> None:
    """Cut at random places, each time from where the server says: every sample is in a chunk, none in two."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    audio = b"".join(quiet(chance.uniform(0.2, 1.2)) + tone(chance.uniform(0.3, 4)) for _ in range(6))
    seen: list[AudioChunkReceived] = []
    interruptions = 8
    async with served(broker, utterance=3.0, partial=0.3) as api, worker_app(broker, seen=seen).worker():
        for _ in range(interruptions):
            async with api.live("?session_id=talk") as socket:
                ready = await begin(socket)
                rest = audio[round(ready["received_until"] * RATE) * 2 :]
                await say(socket, rest[: round(chance.uniform(0, 4) * RATE) * 2])
                socket.transport.abort()
        async with api.live("?session_id=talk") as socket:
            ready = await begin(socket)
            await say(socket, audio[round(ready["received_until"] * RATE) * 2 :])
            await control(socket, "end")
            messages = await hear_all(socket)
    whole = sorted({c.sequence: c for c in seen if not c.is_partial}.values(), key=lambda chunk: chunk.sequence)
    measured(seed=seed, interruptions=interruptions, chunks=len(whole))
    assert [chunk.sequence for chunk in whole] == list(range(len(whole)))
    assert len([c for c in seen if not c.is_partial]) == len(whole), "a chunk was published twice"
    assert {final["sequence"] for final in of_type(messages, "final")} == {chunk.sequence for chunk in whole}
    _check_covers(audio, whole)


async def test_who_is_interrupted_in_the_middle_of_a_sentence_keeps_the_overlap(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    settings = {"utterance": 3.0, "partial": 0}
    async with served(broker, **settings) as api, worker_app(broker, seen=seen).worker():
        async with api.live("?session_id=talk") as socket:
            await begin(socket)
            # As much as one chunk and what it shares with the next: nothing is left to be flushed.
            sending = asyncio.create_task(say(socket, tone(8)))
            first = await hear(socket, "ack")
            socket.transport.abort()
            await asyncio.gather(sending, return_exceptions=True)
        async with api.live("?session_id=talk") as socket:
            ready = await begin(socket)
            await say(socket, tone(8)[round(ready["received_until"] * RATE) * 2 :])
            await control(socket, "end")
            await hear_all(socket)
    chunks = sorted(seen, key=lambda chunk: chunk.sequence)
    assert first["received_until"] == pytest.approx(chunks[1].start)
    for before, after in itertools.pairwise(chunks):
        shared = before.start + (before.duration or 0) - after.start
        # Where the socket died, the utterance was ended: silence stands for what would have been shared.
        assert shared == pytest.approx(before.audio_config.overlap / 2 + after.audio_config.overlap / 2, abs=0.03)


def _check_covers(audio: bytes, chunks: list[AudioChunkReceived]) -> None:
    """What is loud is in the own part of exactly one chunk."""
    owned = [0] * (len(audio) // 2 // (RATE // 50))
    for chunk in chunks:
        half = chunk.audio_config.overlap / 2
        first = chunk.start + (half if chunk.sequence else 0)
        last = chunk.start + (chunk.duration or 0) - half
        for frame in range(round(first * 50), min(round(last * 50), len(owned))):
            owned[frame] += 1
    samples = memoryview(audio).cast("h")
    loud = [max(map(abs, samples[n * 320 : (n + 1) * 320])) > 1000 for n in range(len(owned))]
    lost = [n / 50 for n, is_loud in enumerate(loud) if is_loud and not owned[n]]
    doubled = [n / 50 for n, is_loud in enumerate(loud) if is_loud and owned[n] > 1]
    # A word may be cut within a frame of 20 ms.
    assert len(lost) <= len(chunks), lost
    assert len(doubled) <= len(chunks), doubled


async def test_a_socket_that_dies_leaves_what_it_heard(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    async with served(broker, partial=0) as api, worker_app(broker, seen=seen).worker():
        async with api.live() as socket:
            await begin(socket)
            await say(socket, tone(1))
            await control(socket, "ping")
            await hear(socket, "pong")
            socket.transport.abort()
        await until(lambda: seen)
    assert seen[0].duration == pytest.approx(1.0)


async def test_a_second_connection_takes_the_session_over(broker: str) -> None:
    async with served(broker) as api, api.live("?session_id=talk") as first:
        await begin(first)
        await say(first, tone(1))
        await control(first, "ping")
        await hear(first, "pong")
        async with api.live("?session_id=talk") as second:
            ready = await begin(second)
            assert ready["sequence"] == 0
            assert ready["received_until"] == pytest.approx(1.0)
            assert (await hear_all(first))[-1]["code"] == 4409
        assert first.close_code == 4409


async def test_a_session_that_has_ended_gives_its_results_again(broker: str) -> None:
    async with served(broker) as api, worker_app(broker).worker():
        for is_first in (True, False):
            async with api.live("?session_id=talk") as socket:
                await begin(socket)
                if is_first:
                    await say(socket, tone(1))
                    await control(socket, "end")
                messages = await hear_all(socket)
            assert [final["text"] for final in of_type(messages, "final")] == ["word0"], messages
            assert socket.close_code == 1000


async def test_a_session_longer_than_the_replay_is_done_all_the_same(broker: str) -> None:
    """What the hub has forgotten is in the session's record."""
    async with served(broker, replay_bytes=0) as api, worker_app(broker).worker():
        async with api.live("?session_id=talk") as socket:
            await begin(socket, translate=["fr"])
            await say(socket, tone(1) + quiet(1))
            await hear(socket, "translation")

        async def is_recorded() -> bool:
            answer = await api.client.get("/api/sessions/talk/transcript?format=txt&language=fr")
            return answer.text == "mot0\n"

        await until(is_recorded)
        async with api.live("?session_id=talk") as socket:
            ready = await begin(socket, translate=["fr"])
            assert ready["sequence"] == 0
            await say(socket, quiet(1))
            await control(socket, "end")
            assert (await hear_all(socket))[-1] == {"type": "status", "state": "complete"}


async def test_clients_pause_while_too_much_waits(broker: str) -> None:
    async with served(broker, max_lag=2, lag_interval=0.05, partial=0) as api, api.live() as socket:
        await begin(socket)
        talking = asyncio.create_task(_talk_on(socket))
        told = await hear(socket, "backpressure")
        assert told["paused"]
        assert told["lag"] > told["limit"] == 2
        async with worker_app(broker).worker():
            assert not (await hear(socket, "backpressure"))["paused"]
            talking.cancel()
            await control(socket, "end")
            messages = await hear_all(socket)
        # Complete is what has an answer to every chunk.
        assert messages[-1] == {"type": "status", "state": "complete"}


async def _talk_on(socket: ClientConnection) -> None:
    while True:
        await say(socket, tone(0.5) + quiet(0.8))


# ── what clients do wrong ─────────────────────────────────────────────────────────────────────────────────────────

WRONG = {
    "no JSON": "hello",
    "no object": "[1, 2]",
    "nothing": "{}} ",
    "audio first": b"\0\0" * 100,
    "an unknown language": '{"language": "klingon"}',
    "an unknown encoding": '{"encoding": "mp3"}',
    "a rate of nothing": '{"sample_rate": 0}',
    "deeply nested": "[" * 100_000,
}


@pytest.mark.parametrize("first", WRONG.values(), ids=WRONG)
async def test_a_wrong_first_frame_is_refused_with_a_reason(broker: str, first: str | bytes) -> None:
    async with served(broker) as api, api.live() as socket:
        await socket.send(first)
        [told] = await hear_all(socket)
        assert told["type"] == "error"
        assert told["message"]
        assert socket.close_code == 1008


async def test_nonsense_never_breaks_the_server_and_never_costs_what_was_said(broker: str) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    rounds = 60
    seen: list[AudioChunkReceived] = []
    codes: dict[int | None, int] = {}
    async with served(broker, max_frame_bytes=4096, partial=0.2) as api, worker_app(broker, seen=seen).worker():
        for _ in range(rounds):
            async with api.live() as socket:
                await _talk_nonsense(socket, chance)
            codes[socket.close_code] = codes.get(socket.close_code, 0) + 1
        async with api.live() as socket:
            await begin(socket)
            await say(socket, tone(1), piece=0.05)
            await control(socket, "end")
            assert of_type(await hear_all(socket), "final")
    measured(seed=seed, rounds=rounds, closed_with=codes)
    assert set(codes) <= {1000, 1008, 1009}


async def _talk_nonsense(socket: ClientConnection, chance: random.Random) -> None:
    texts = ["", "{", "null", "[]", '{"type": 1}', '{"type": "end"}', '{"type": "flush"}', '{"type": "ping"}', "\x00",
             '{"type": {}}', '{"type": "config"}', '{"sample_rate": 8000}', "[" * 3000]  # fmt: skip
    try:
        if chance.random() < 0.8:
            await begin(socket)
        for _ in range(chance.randrange(8)):
            kind = chance.random()
            if kind < 0.5:
                await socket.send(chance.randbytes(chance.randrange(3000)))
            elif kind < 0.6:
                await socket.send(bytes(chance.randrange(4000, 9000)))
            else:
                await socket.send(chance.choice(texts))
        await control(socket, "ping")
        # Whatever it was, the server answers: with a pong, or with why it closes.
        while (await hear(socket))["type"] != "pong":
            pass
    except ConnectionClosed:
        pass


async def test_a_frame_that_is_too_large_is_refused(broker: str) -> None:
    async with served(broker, max_frame_bytes=1024) as api, api.live() as socket:
        await begin(socket)
        await socket.send(bytes(2048))
        assert "2048" in (await hear_all(socket))[-1]["message"]
        assert socket.close_code == 1009


async def test_a_client_that_says_nothing_is_closed(broker: str) -> None:
    async with served(broker, idle_timeout=0.2) as api, api.live() as socket:
        await begin(socket)
        assert "nothing came" in (await hear_all(socket))[-1]["message"]


async def test_quiet_need_not_be_kept_by_the_client(broker: str) -> None:
    async with served(broker) as api:
        async with api.live("?session_id=talk") as socket:
            await begin(socket)
            await say(socket, quiet(7))
            ack = await hear(socket, "ack")
            assert "sequence" not in ack
            assert ack["received_until"] > 5
        async with api.live("?session_id=talk") as socket:
            ready = await begin(socket, resume_from=ack["received_until"])
            assert ready["received_until"] == ack["received_until"]
