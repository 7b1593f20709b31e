"""The second act of the demo: a bot is sent to a meeting, and what it does and hears is shown as it comes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.request import Request, urlopen

import click
from rich.console import Console
from rich.text import Text
from websockets.asyncio.client import connect

from streamtask_contrib.bot.states import FINAL
from streamtask_contrib.cli.lines import Delay, Lines, row

#: Seconds that an answer of the API may take, and the meeting with its last words.
_ANSWER, _MEETING = 10.0, 120.0
_LANGUAGE = "en"
_NAMES = {"requested": "asked for", "waiting_room": "in the waiting room", "in_call": "in the call",
          "capturing": "listening", "stopped": "left"}  # fmt: skip


async def ask(address: str, path: str, *, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    """The API's answer to a request; there is no client of HTTP among what the demo needs."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(f"http://{address}{path}", data=data, method=method, headers=headers)

    def answer() -> Any:
        with urlopen(request, timeout=_ANSWER) as response:  # noqa: S310 - our own API
            return json.load(response)

    return await asyncio.to_thread(answer)


async def attend(meeting: str, address: str, console: Console, *, target: str) -> None:
    """Send a bot to the recording of a meeting; show its states, and what it hears, until it has left."""
    wish = {"meeting_url": meeting, "driver": "file", "language": _LANGUAGE, "translate": [target]}
    bot = await ask(address, "/api/bots", method="POST", body=wish)
    began = time.monotonic()
    lines = Lines(_latencies())
    both = (
        asyncio.create_task(_show_states(bot["bot_id"], address, console, began)),
        asyncio.create_task(_show_words(bot["session_id"], address, console, lines)),
    )
    try:
        async with asyncio.timeout(_MEETING):
            await asyncio.gather(*both)
    except TimeoutError:
        raise click.ClickException(f"the meeting was not over, and heard, within {_MEETING:g} s") from None
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
    if not lines.complete:
        raise click.ClickException("the bot heard nothing in the meeting")


def _latencies() -> Delay:
    """A meeting has its own clock: what is known is how long each has waited for a worker, and been worked on."""
    words: dict[int, float] = {}

    def delay(_: float, message: dict[str, Any]) -> float:
        own = float(message["latency"]["queue"] + message["latency"]["total"])
        if message["type"] == "final":
            words[message["sequence"]] = own
            return own
        # It is translated when there are words.
        return words[message["sequence"]] + own

    return delay


async def _show_states(bot_id: str, address: str, console: Console, began: float) -> None:
    told = {"state": "", "participants": []}
    async with connect(f"ws://{address}/api/bots/{bot_id}/status") as client:
        async for text in client:
            message = json.loads(text)
            if message["type"] == "ended":
                return
            if message["type"] != "status":
                raise click.ClickException(message["message"])
            if said := _news(told, message):
                console.print(Text(f"{time.monotonic() - began:5.1f} s  {said}", style="magenta"))
            if message["state"] == "failed":
                raise click.ClickException(f"the bot has failed: {message['reason']} {message['sub_code']}".rstrip())
            told = message


def _news(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What has changed of a bot, in words."""
    told = []
    if now["state"] != before["state"]:
        told.append(f"bot {_NAMES.get(now['state'], now['state'])}")
    for one, other, word in ((now, before, "there"), (before, now, "gone")):
        people = [name for name in one["participants"] if name not in other["participants"]]
        if people and now["state"] not in FINAL:
            told.append(f"{' and '.join(people)} {'is' if len(people) == 1 else 'are'} {word}")
    return ", ".join(told)


async def _show_words(session_id: str, address: str, console: Console, lines: Lines) -> None:
    async with connect(f"ws://{address}/api/sessions/{session_id}/events", max_size=None) as client:
        async for text in client:
            message = json.loads(text)
            if message["type"] == "final":
                lines.take_words(message)
            elif message["type"] == "translation":
                if (line := lines.take_translation(message)) is not None:
                    console.print(row(line, console.width))
            elif message["type"] in ("failed", "error"):
                raise click.ClickException(message["message"])
            if lines.is_done:
                return
