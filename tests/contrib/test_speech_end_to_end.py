"""All of speech with real processes: the API under uvicorn, the workers as users start them, a real Redis, a browser.

What is spoken comes from voices that the models have never heard.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")
pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")
pytest.importorskip("sentencepiece", reason="the extra `translation` is not installed")

from faster_whisper import decode_audio
from streamtask_contrib.cli.processes import Workers
from websockets.asyncio.client import connect

from tests.contrib.api.serving import begin, control, hear, measured, quiet
from tests.contrib.browsing import errors_of, opened
from tests.servers import RedisServer, available_servers, free_port

pytestmark = pytest.mark.timeout(180)

#: Seconds that anything may take on a busy machine.
PATIENCE = 60.0
SAID = {
    "please join the meeting": "veuillez rejoindre la réunion",
    "open the next slide": "ouvrez la diapositive suivante",
    "thank you": "merci",
}
DOCS = Path(__file__).parents[2] / "docs"
ESPEAK = shutil.which("espeak-ng") or ""
if not ESPEAK:
    pytest.skip("espeak-ng is not installed", allow_module_level=True)


class Api:
    """One API process."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.broker = broker
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        factory = ["--factory", "streamtask_contrib.api:create_app", "--port", str(self.port)]
        with (self.folder / "api.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", *factory],
                env=os.environ | {"STREAMTASK_BROKER": self.broker},
                stdout=log,
                stderr=log,
            )
        self.wait_until("/ready", lambda _: True)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)

    def wait_until(self, path: str, good: Callable[[Any], bool]) -> None:
        """Wait until it answers so."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = httpx.get(f"{self.url}{path}", timeout=5)
                if answer.status_code == 200 and good(answer.json()):
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.05)

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API, with the workers behind it."""
    folder = tmp_path_factory.mktemp("speech")
    server = RedisServer(available_servers()[0])
    server.start()
    api = Api(folder, server.url)
    try:
        with Workers(server.url, folder) as workers:
            workers.start("streamtask_contrib.audio:app")
            workers.start("streamtask_contrib.translation:app")
            api.start()
            api.wait_until("/api/system/health", lambda health: health["status"] == "ok")
            yield api
            api.end()
    finally:
        server.close()


def spoken(*sentences: str, voice: str = "en-us+m8") -> bytes:
    """Sentences one after the other, at 16 kHz, with silence between them."""
    pcm = quiet(0.5)
    for sentence in sentences:
        said = subprocess.run(
            [ESPEAK, "-v", voice, "-s", "150", "--stdout", sentence], capture_output=True, check=True
        ).stdout
        pcm += _at_16k(said) + quiet(1)
    return pcm


def _at_16k(sound: bytes) -> bytes:
    samples = decode_audio(io.BytesIO(sound), 16_000)
    return (samples * 32767).astype("<i2").tobytes()


def as_wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes(pcm)
    return file.getvalue()


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_uploaded_file_becomes_words_and_french(system: Api) -> None:
    async with httpx.AsyncClient(base_url=system.url, timeout=PATIENCE) as client:
        began = time.monotonic()
        answer = await client.post(
            "/api/audio/upload", files={"file": as_wav(spoken(*SAID))}, data={"translate": "fr,de", "language": "en"}
        )
        assert answer.status_code == 202, answer.text
        session_id = answer.json()["session_id"]
        words = await _text(client, session_id, "format=txt")
        french = await _text(client, session_id, "format=txt&language=fr")
        measured(upload_to_french=round(time.monotonic() - began, 2))
        assert words.splitlines() == list(SAID)
        assert french.splitlines() == list(SAID.values())
        subtitles = (await client.get(f"/api/sessions/{session_id}/transcript?format=vtt")).text
        assert subtitles.startswith("WEBVTT")
        assert subtitles.count("-->") == len(SAID)


async def _text(client: httpx.AsyncClient, session_id: str, query: str) -> str:
    """A transcript, once it is there and complete."""
    path = f"/api/sessions/{session_id}/transcript"
    language = "".join(f"&{part}" for part in query.split("&") if part.startswith("language"))
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await client.get(f"{path}?format=json{language}")
            if answer.status_code == 200 and answer.json()["is_complete"]:
                return (await client.get(f"{path}?{query}")).text
            await asyncio.sleep(0.05)


# ── over a socket ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_spoken_into_a_socket_becomes_words_and_french(system: Api) -> None:
    async with connect(f"ws://127.0.0.1:{system.port}/api/audio/stream") as socket:
        await begin(socket, translate=["fr"], language="en")
        speaking = asyncio.create_task(_speak(socket, spoken(*SAID)))
        messages = await asyncio.wait_for(_everything(socket), PATIENCE)
        await speaking
    finals = _texts(messages, "final")
    assert [text for text in finals if text] == list(SAID)
    assert _texts(messages, "translation") == list(SAID.values())
    partials = [message for message in messages if message["type"] == "partial"]
    assert any(message["stable"] or message["tentative"] for message in partials)


async def test_an_api_that_is_killed_in_between_costs_no_word(system: Api) -> None:
    """Kill it while somebody speaks; the client comes back to its successor and goes on where that one says."""
    audio = spoken(*SAID)
    other = Api(system.folder, system.broker)
    url = f"ws://127.0.0.1:{other.port}/api/audio/stream?session_id=killed"
    await asyncio.to_thread(other.start)
    async with connect(url) as socket:
        await begin(socket, translate=["fr"], language="en")
        speaking = asyncio.create_task(_speak(socket, audio))
        await hear(socket, "ack")
        other.end(signal.SIGKILL)
        await asyncio.gather(speaking, return_exceptions=True)
    await asyncio.to_thread(other.start)
    try:
        async with connect(url) as socket:
            ready = await begin(socket, translate=["fr"], language="en")
            assert ready["sequence"] >= 0
            speaking = asyncio.create_task(_speak(socket, audio[round(ready["received_until"] * 16_000) * 2 :]))
            messages = await asyncio.wait_for(_everything(socket), PATIENCE)
            await speaking
        async with httpx.AsyncClient(base_url=other.url, timeout=PATIENCE) as client:
            text = await _text(client, "killed", "format=txt")
    finally:
        await asyncio.to_thread(other.end)
    assert text.splitlines() == list(SAID)
    assert _texts(messages, "translation")[-1] == "merci"


async def test_workers_that_are_killed_in_between_cost_no_word(system: Api) -> None:
    async with connect(f"ws://127.0.0.1:{system.port}/api/audio/stream") as socket:
        await begin(socket, translate=["fr"], language="en")
        speaking = asyncio.create_task(_speak(socket, spoken(*SAID)))
        await hear(socket, "ack")
        async with httpx.AsyncClient(base_url=system.url, timeout=PATIENCE) as client:
            health = (await client.get("/api/system/health")).json()
        killed = [worker for worker in health["workers"] if {"audio-pipeline", "translation"} & set(worker["groups"])]
        for worker in killed:
            os.kill(int(worker["worker"].split(":")[1]), signal.SIGKILL)
        messages = await asyncio.wait_for(_everything(socket), PATIENCE)
        await speaking
    assert len(killed) == 2
    assert [text for text in _texts(messages, "final") if text] == list(SAID)
    assert _texts(messages, "translation") == list(SAID.values())


async def _speak(socket: Any, pcm: bytes) -> None:
    """In real time, a tenth of a second a frame."""
    began = time.monotonic()
    for place in range(0, len(pcm), 3200):
        await socket.send(pcm[place : place + 3200])
        await asyncio.sleep(max(0.0, began + (place + 3200) / 32_000 - time.monotonic()))
    await control(socket, "end")


async def _everything(socket: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1].get("state") != "complete":
        messages.append(json.loads(await socket.recv()))
    return messages


def _texts(messages: list[dict[str, Any]], kind: str) -> list[str]:
    found = [one for one in messages if one["type"] == kind and not one["is_partial"]]
    return [one["text"].strip() for one in sorted(found, key=lambda one: one["sequence"])]


async def test_the_client_of_the_documentation_works(system: Api, tmp_path: Path) -> None:
    page = await asyncio.to_thread((DOCS / "how-to" / "speech-api.md").read_text)
    client, recording = tmp_path / "client.py", tmp_path / "talk.wav"
    code = page.partition("<!-- client -->\n```python\n")[2].partition("```")[0]
    await asyncio.to_thread(client.write_text, code)
    await asyncio.to_thread(recording.write_bytes, as_wav(spoken(*SAID)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, client, f"ws://127.0.0.1:{system.port}", recording, stdout=subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    lines = [(int(number), *rest) for number, *rest in (line.split(" ", 2) for line in said.decode().splitlines())]
    assert [text for _, kind, text in sorted(lines) if kind == "final" and text] == list(SAID)
    assert [text for _, kind, text in sorted(lines) if kind == "translation" and text] == list(SAID.values())


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def page(tmp_path: Path) -> Any:
    """A page into whose microphone the second sentence is spoken again and again."""
    microphone = tmp_path / "microphone.wav"
    microphone.write_bytes(as_wav(spoken("open the next slide") + quiet(2)))
    arguments = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    async with opened(*arguments, f"--use-file-for-fake-audio-capture={microphone}", patience=PATIENCE) as page:
        yield page


#: What a browser does when a file is dropped on a page.
DROP = """
async ([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "audio/wav" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true }));
  }
}
"""


async def test_a_file_that_is_dropped_on_the_page_is_shown_in_words_and_french(system: Api, page: Any) -> None:
    errors = errors_of(page)
    await page.goto(system.url)
    await page.wait_for_selector("#health[data-status=ok]")
    await page.evaluate(DROP, ["talk.wav", b64encode(as_wav(spoken(*SAID, voice="en-us+f5"))).decode()])
    await page.get_by_text("All of it has been heard").wait_for()
    for text in (*SAID, *SAID.values()):
        await page.get_by_text(text, exact=True).wait_for()
    assert await page.locator("#lines .text").all_inner_texts() == list(SAID)
    async with page.expect_download() as waiting:
        await page.get_by_label("French as vtt").click()
    download = await waiting.value
    assert "merci" in await asyncio.to_thread(Path(await download.path()).read_text)
    assert errors == []


async def test_who_speaks_into_the_page_sees_words_and_french(system: Api, page: Any) -> None:
    errors = errors_of(page)
    await page.goto(system.url)
    await page.get_by_role("button", name="Speak").click()
    await page.locator("#now").wait_for()
    await page.locator("#lines").get_by_text("open the next slide", exact=True).first.wait_for()
    await page.get_by_text("ouvrez la diapositive suivante", exact=True).first.wait_for()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_text("All of it has been heard").wait_for()
    assert errors == []


async def test_the_page_says_why_a_file_is_no_good(system: Api, page: Any) -> None:
    await page.goto(system.url)
    await page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no sound " * 99})
    await page.get_by_role("alert").get_by_text("the file is no audio").wait_for()
