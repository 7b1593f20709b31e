"""Uploading a file: accepted once, refused clearly, cut in silences."""

from __future__ import annotations

import asyncio

import pytest

from tests.contrib.api.serving import served, tone, wav, worker_app

pytest.importorskip("fastapi", reason="the extra `api` is not installed")


async def test_a_file_is_accepted_and_its_words_can_be_read(broker: str) -> None:
    async with served(broker) as api, worker_app(broker).worker():
        answer = await api.client.post(
            "/api/audio/upload", files={"file": wav(tone(2))}, data={"language": "en", "translate": "fr,de"}
        )
        assert answer.status_code == 202, answer.text
        session_id, chunk_ids = answer.json()["session_id"], answer.json()["chunk_ids"]
        assert chunk_ids == [f"{session_id}-0"]

        async def text(query: str) -> str:
            return (await api.client.get(f"/api/sessions/{session_id}/transcript?{query}")).text

        await until_async(lambda: text("format=txt&language=fr"), "mot0\n")
        assert await text("format=txt") == "word0\n"
        assert (await text("format=vtt")).startswith("WEBVTT")
        assert "-->" in await text("format=srt")
        assert '"is_complete": true' in await text("format=json")
