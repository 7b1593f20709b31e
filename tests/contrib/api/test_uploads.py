"""Uploading a file: taken in once, refused clearly, cut in silences."""

from __future__ import annotations

import asyncio
import functools
import io
from typing import Any

import httpx
import pytest
from streamtask_contrib.events import AudioChunkReceived

from streamtask import TransportError
from tests.contrib.api.serving import PATIENCE, Served, measured, quiet, served, tone, until, wav, worker_app

pytest.importorskip("fastapi", reason="the extra `api` is not installed")


async def upload(api: Served, content: bytes, **form: object) -> httpx.Response:
    return await api.client.post("/api/audio/upload", files={"file": content}, data=form)


async def transcript(api: Served, session_id: str, query: str = "format=txt") -> str:
    return (await api.client.get(f"/api/sessions/{session_id}/transcript?{query}")).text


async def test_a_file_is_taken_in_and_its_words_can_be_read(broker: str) -> None:
    async with served(broker) as api, worker_app(broker).worker():
        answer = await upload(api, wav(tone(2)), language="en", translate="fr,de")
        assert answer.status_code == 202, answer.text
        session_id, chunk_ids = answer.json()["session_id"], answer.json()["chunk_ids"]
        assert chunk_ids == [f"{session_id}-0"]

        async def is_translated() -> bool:
            return await transcript(api, session_id, "format=txt&language=fr") == "mot0\n"

        await until(is_translated)
        assert await transcript(api, session_id) == "word0\n"
        assert (await transcript(api, session_id, "format=vtt")).startswith("WEBVTT")
        assert "-->" in await transcript(api, session_id, "format=srt")
        assert '"is_complete": true' in await transcript(api, session_id, "format=json")
        missing = await api.client.get(f"/api/sessions/{session_id}/transcript?language=es")
        assert missing.status_code == 404
        assert "de, fr" in missing.json()["detail"]


async def test_what_a_worker_gets_is_what_was_uploaded(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    content = wav(tone(2))
    async with served(broker) as api, worker_app(broker, seen=seen).worker():
        await upload(api, content, language="EN-us", diarize=True, translate="de", speaker="Ada")
        await until(lambda: seen)
        assert await api.service.events.blobs.get(seen[0].storage_uri) == content
    [chunk] = seen
    assert (chunk.language, chunk.speaker, chunk.is_last, chunk.source_type) == ("en", "Ada", True, "upload")
    assert chunk.duration == pytest.approx(2)
    assert chunk.processing_flags.diarize
    assert chunk.processing_flags.target_languages == ["de"]


async def test_a_long_file_is_cut_where_it_is_quiet(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    audio = (tone(3) + quiet(1)) * 5 + tone(12)
    async with served(broker, upload_chunk=6) as api, worker_app(broker, seen=seen).worker():
        answer = await upload(api, wav(audio))
        chunk_ids = answer.json()["chunk_ids"]
        await until(lambda: len(seen) == len(chunk_ids))
        chunks = sorted(seen, key=lambda chunk: chunk.sequence)
        stored = [await api.service.events.blobs.get(chunk.storage_uri) for chunk in chunks]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all((chunk.duration or 0) <= 7 for chunk in chunks)
    # In the pauses where there are any; in speech, with an overlap, where there is none.
    assert [chunk.audio_config.overlap for chunk in chunks[:4]] == [0] * 4
    assert any(chunk.audio_config.overlap for chunk in chunks)
    position = 0.0
    for chunk, pcm in zip(chunks, stored, strict=True):
        half = chunk.audio_config.overlap / 2
        assert chunk.start + half == pytest.approx(position, abs=0.03), "something is lost or doubled"
        position = chunk.start + len(pcm) / 32_000 - half
        samples = memoryview(pcm).cast("h")
        first = round(chunk.start * 16_000)
        # What is behind the end of the file is silence.
        source = memoryview(audio).cast("h")[first : first + len(samples)]
        assert max((abs(a - b) for a, b in zip(samples, source, strict=False)), default=0) <= 1
    assert position >= len(audio) / 32_000 - 0.03


@pytest.mark.parametrize("harm", ["damaged", "cut off"])
async def test_what_is_left_of_a_damaged_file_is_heard(broker: str, harm: str) -> None:
    whole = flac(tone(3) * 4)
    middle = len(whole) // 2
    harmed = whole[:middle] + (bytes(3000) + whole[middle + 3000 :] if harm == "damaged" else b"")
    seen: list[AudioChunkReceived] = []
    async with served(broker, upload_chunk=4) as api, worker_app(broker, seen=seen).worker():
        answer = await upload(api, harmed)
        assert answer.status_code == 202, answer.text
        await until(lambda: len(seen) == len(answer.json()["chunk_ids"]))
    heard = sum(chunk.duration or 0 for chunk in seen)
    assert heard > (10 if harm == "damaged" else 5)


def flac(pcm: bytes) -> bytes:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    made = io.BytesIO()
    with av.open(io.BytesIO(wav(pcm))) as source, av.open(made, "w", format="flac") as target:
        stream = target.add_stream("flac", rate=16_000)
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return made.getvalue()


# ── once ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_file_is_worked_on_once(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    async with served(broker) as api, worker_app(broker, seen=seen).worker():
        first, *others = await asyncio.gather(*(upload(api, wav(tone(1))) for _ in range(5)))
        again = await upload(api, wav(tone(1)))
        other_wish = await upload(api, wav(tone(1)), translate="fr")
        other_file = await upload(api, wav(tone(1.5)))
        await until(lambda: len(seen) == 3)
    assert {answer.json()["session_id"] for answer in others} == {first.json()["session_id"]}
    assert again.json() == first.json() | {"repeated": True}
    assert len({answer.json()["session_id"] for answer in (first, other_wish, other_file)}) == 3
    assert len({chunk.chunk_id for chunk in seen}) == 3


async def test_an_upload_that_broke_off_is_finished_by_the_next(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break it at each of its steps in turn: in the end each chunk has been published, and none twice."""
    for step in range(1, 40):
        if await _is_unbroken(broker, monkeypatch, step):
            break
    measured(steps=step)
    assert 12 < step < 39


async def _is_unbroken(broker: str, monkeypatch: pytest.MonkeyPatch, step: int) -> bool:
    content = wav((tone(3) + quiet(1)) * 3)
    seen: list[AudioChunkReceived] = []
    session_id = f"broken-{step}"
    # The transcripts' worker asks the broker, too; here the upload alone is meant.
    settings = {"upload_chunk": 4, "keep_transcripts": False}
    async with served(broker, **settings) as api, worker_app(broker, seen=seen).worker():
        with monkeypatch.context() as patch:
            _break_at(api, step, patch)
            first = await upload(api, content, session_id=session_id)
        assert first.status_code in (202, 503), first.text
        again = await upload(api, content, session_id=session_id)
        assert again.status_code == 202, again.text
        chunk_ids = again.json()["chunk_ids"]
        await until(lambda: len(seen) >= len(chunk_ids))
        assert sorted(chunk.chunk_id for chunk in seen) == sorted(chunk_ids)
    return first.status_code == 202


def _break_at(api: Served, step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the given call to the broker fail, counted over all that an upload makes: half of them have taken effect."""
    app = api.service.events
    calls = iter(range(1, 1000))

    def breaking(real: Any, *, before: bool) -> Any:
        @functools.wraps(real)
        async def call(*args: Any, **options: Any) -> Any:
            breaks = next(calls) == step
            if breaks and before:
                raise TransportError("gone")
            result = await real(*args, **options)
            if breaks:
                raise TransportError("gone")
            return result

        return call

    records, blobs = type(app.records), type(app.blobs)
    for target, name in ((records, "claim"), (records, "write"), (blobs, "put"), (app, "publish")):
        patch.setattr(target, name, breaking(getattr(target, name), before=bool(step % 2)))


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = {
    "text": (b"this is no audio, but it is long enough to be something", {}, 415, "no audio"),
    "an empty file": (b"", {}, 422, "empty"),
    "a head alone": (wav(b""), {}, 415, "empty"),
    "random bytes": (bytes(range(256)) * 40, {}, 415, "no audio"),
    "an unknown language": (wav(tone(0.5)), {"language": "klingon"}, 422, "klingon"),
    "an unknown translation": (wav(tone(0.5)), {"translate": "fr,elvish"}, 422, "elvish"),
    "a strange session": (wav(tone(0.5)), {"session_id": "../etc"}, 422, "session_id"),
}


@pytest.mark.parametrize(("content", "form", "status", "why"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_used_is_refused_with_a_reason(
    broker: str, content: bytes, form: dict[str, str], status: int, why: str
) -> None:
    async with served(broker) as api:
        answer = await upload(api, content, **form)
        assert answer.status_code == status, answer.text
        assert why in answer.text


async def test_a_file_that_is_too_large_is_refused_before_it_is_read(broker: str) -> None:
    async with served(broker, max_upload_bytes=100_000) as api:
        assert (await upload(api, wav(tone(1)))).status_code == 202
        answer = await upload(api, wav(tone(10)))
        assert answer.status_code == 413, answer.text
        assert "100000" in answer.json()["detail"]


async def test_a_file_without_an_announced_length_is_refused_where_the_limit_is(broker: str) -> None:
    head = (
        "POST /api/audio/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    async with served(broker, max_upload_bytes=1 << 20) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head.encode() + _http_chunk(form))
        sending = asyncio.create_task(_send_without_end(writer))
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readline()
        sending.cancel()
        writer.close()
    assert b"413" in answer


async def _send_without_end(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(_http_chunk(bytes(1 << 16)))
        await writer.drain()


def _http_chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


async def test_a_session_that_has_audio_gets_no_other(broker: str) -> None:
    async with served(broker) as api:
        assert (await upload(api, wav(tone(1)), session_id="talk")).status_code == 202
        answer = await upload(api, wav(tone(2)), session_id="talk")
        assert answer.status_code == 409
        assert "has audio already" in answer.json()["detail"]


async def test_without_a_decoder_the_first_bytes_tell(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamtask_contrib.api.media.av", None)
    async with served(broker, upload_chunk=2) as api:
        answer = await upload(api, wav(tone(5)))
        assert len(answer.json()["chunk_ids"]) == 1
        assert (await upload(api, b"neither this nor that, for sure")).status_code == 415


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_deleted_session_is_gone_with_its_audio(broker: str) -> None:
    seen: list[AudioChunkReceived] = []
    async with served(broker) as api, worker_app(broker, seen=seen).worker():
        session_id = (await upload(api, wav(tone(1)))).json()["session_id"]

        async def has_words() -> bool:
            return await transcript(api, session_id) == "word0\n"

        await until(has_words)
        assert (await api.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        assert (await api.client.get(f"/api/sessions/{session_id}/transcript")).status_code == 404
        assert (await api.client.delete(f"/api/sessions/{session_id}")).status_code == 404
        assert not await api.service.events.records.read(f"audio-session-{session_id}")
        # The same file may come again, as new.
        again = (await upload(api, wav(tone(1)))).json()
        assert not again["repeated"]
        assert again["session_id"] != session_id
