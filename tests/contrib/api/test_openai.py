"""What OpenAI's clients ask is answered in their form, by the workers that are here."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.events import AudioChunkReceived

from tests.contrib.api.serving import Served, quiet, served, tone, wav, worker_app

PATH = "/v1/audio/transcriptions"


@pytest.fixture
def sound() -> bytes:
    return wav((tone(3) + quiet(1)) * 2)


async def ask(api: Served, content: bytes, **form: str) -> tuple[int, str]:
    answer = await api.client.post(PATH, files={"file": content}, data={"model": "whisper-1"} | form)
    return answer.status_code, answer.text


async def test_the_words_of_a_file_are_the_answer(broker: str, sound: bytes) -> None:
    seen: list[AudioChunkReceived] = []
    async with served(broker, upload_chunk=4) as api, worker_app(broker, seen=seen).worker():
        answer = await ask(api, sound)
        words = [f"word{n}" for n in range(len(seen))]
        assert len(words) > 1
        assert answer == (200, json.dumps({"text": " ".join(words)}))
        assert (await ask(api, sound, response_format="text"))[1].split() == words
        assert (await ask(api, sound, response_format="vtt"))[1].startswith("WEBVTT")
        assert (await ask(api, sound, response_format="srt"))[1].startswith("1\n00:00:0")
        verbose = await api.client.post(PATH, files={"file": sound}, data={"response_format": "verbose_json"})
        assert verbose.json()["language"] == "en"
        assert [word["word"] for word in verbose.json()["words"]] == words
    assert len(seen) == len(words), "the same file was worked on again"


async def test_who_waits_too_long_is_told_to_ask_again(broker: str, sound: bytes) -> None:
    async with served(broker, end_timeout=3) as api:
        status, text = await ask(api, sound)
        assert status == 504
        assert "ask again" in text
        async with worker_app(broker).worker():
            assert (await ask(api, sound))[0] == 200


async def test_what_is_no_audio_is_refused_at_once(broker: str) -> None:
    async with served(broker) as api:
        assert (await ask(api, b"no audio at all, but long enough"))[0] == 415
