"""The page in a real Chromium: a meeting from the first click to the last word, and how the system is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.bot.registry import Bots
from streamtask_contrib.bot.states import Bot
from streamtask_contrib.events import (
    AnomalyDetected,
    Segment,
    ServiceHealthReport,
    SpeakerMap,
    TranscriptionCompleted,
    TranslatedSegment,
    TranslationCompleted,
)
from streamtask_contrib.monitoring.anomalies import Anomalies
from streamtask_contrib.monitoring.board import Board

from streamtask import App
from tests.contrib.api.serving import Served, served, until
from tests.contrib.bots import advance
from tests.contrib.browsing import errors_of, opened

pytestmark = pytest.mark.timeout(120)

MEETING = "https://meet.example.org/standup?jwt=abc"


def address(api: Served, query: str = "") -> str:
    return f"http://127.0.0.1:{api.port}/{query}"


async def only(app: App) -> Bot:
    """The one bot that there is."""
    found: list[Bot] = []

    async def is_there() -> bool:
        found[:] = await Bots(app).all()
        return bool(found)

    await until(is_there)
    assert len(found) == 1
    return found[0]


async def say(app: App, session_id: str, sequence: int, *, start: float, speaker: str, said: tuple[str, str]) -> None:
    """What workers would say of a participant's utterance. `said`: in English and in French."""
    text, french = said
    words = {"session_id": session_id, "chunk_id": f"{session_id}-{sequence}", "sequence": sequence}
    segment = Segment(start=start, end=start + 1, text=text, speaker=speaker)
    speakers = SpeakerMap(method="source", confidence="exact", speakers={speaker: speaker})
    await app.publish(
        TranscriptionCompleted(**words, language="en", text=text, segments=[segment], speaker_map=speakers)
    )
    translated = TranslatedSegment(start=start, end=start + 1, source_text=text, text=french)
    await app.publish(
        TranslationCompleted(**words, source_language="en", target_language="fr", text=french, segments=[translated])
    )


async def send(page: Any) -> None:
    await page.get_by_label("Address").fill(MEETING)
    await page.get_by_role("button", name="Send a bot").click()
    await page.locator("#bot-state", has_text="asked for").wait_for()


async def test_a_meeting_is_followed_from_the_first_click_to_the_last_word(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        errors, elsewhere = errors_of(page), []
        page.on("request", lambda asked: elsewhere.append(asked.url) if f":{api.port}/" not in asked.url else None)
        await page.goto(address(api))
        await send(page)
        bot = await only(app)
        assert bot.request is not None
        assert (bot.request.meeting_url, bot.request.driver) == (MEETING, "browser")
        assert bot.request.processing_flags.target_languages == ["fr"]
        await advance(app, bot.bot_id, "starting", "joining", "waiting_room")
        await page.get_by_text("Waits for somebody in the meeting to let it in").wait_for()
        await advance(app, bot.bot_id, "in_call", "capturing", people=("Ada", "Ben"))
        await page.locator("#bot-state", has_text="listening").wait_for()
        assert await page.locator("#participants li").all_inner_texts() == ["Ada", "Ben"]
        session = bot.request.session_id
        # Two speak at once: the shorter utterance is there first, and stands where it was spoken.
        await say(app, session, 0, start=2.0, speaker="Ben", said=("hello", "bonjour"))
        await say(app, session, 1, start=1.0, speaker="Ada", said=("hello team", "bonjour l'équipe"))
        await page.get_by_text("bonjour l'équipe", exact=True).wait_for()
        assert await page.locator("#lines .text").all_inner_texts() == ["hello team", "hello"]
        assert await page.locator("#lines .speaker").all_inner_texts() == ["Ada", "Ben"]
        hues = [
            await page.locator(f"{place} .speaker >> nth=0").get_attribute("data-hue") for place in ("#lines", "#bot")
        ]
        assert hues[0] == hues[1], "who speaks has one colour"
        await advance(app, bot.bot_id, "capturing", people=("Ben",))
        await page.locator("#participants li", has_text="Ada").wait_for(state="detached")
        await page.get_by_role("button", name="Call it back").click()
        await page.locator("#bot-state", has_text="asked to leave").wait_for()
        assert (await only(app)).desired == "stopped"
        await advance(app, bot.bot_id, "leaving", "stopped", reason="requested")
        await page.get_by_text("Has left: as it was asked to").wait_for()
        assert not await page.get_by_role("button", name="Call it back").is_visible()
        assert errors == []
        assert elsewhere == []


async def test_a_bot_that_failed_says_why_and_how_far_it_came(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        await page.goto(address(api))
        await send(page)
        bot = await only(app)
        await advance(app, bot.bot_id, "starting", "joining")
        await page.locator("#bot-state", has_text="joining").wait_for()
        await advance(app, bot.bot_id, "failed", reason="join_timeout")
        await page.get_by_text("It did not work: the meeting could not be reached in time").wait_for()
        assert await page.locator("#track li").all_inner_texts() == [
            "Asked",
            "Joining",
            "In call",
            "Listening",
            "Failed",
        ]
        assert await page.locator("#track .done").all_inner_texts() == ["Asked", "Joining"]


async def test_a_bot_that_is_there_already_is_shown_to_who_comes_and_after_a_reload(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        wish = {"meeting_url": MEETING, "bot_id": "standup"}
        session = (await api.client.post("/api/bots", json=wish)).json()["session_id"]
        await advance(app, "standup", "starting", "joining", "capturing", people=("Ada",))
        await say(app, session, 0, start=1.0, speaker="Ada", said=("hello team", "bonjour l'équipe"))
        for _ in range(2):
            await page.goto(address(api))
            await page.locator("#bot-state", has_text="listening").wait_for()
            await page.get_by_text("bonjour l'équipe", exact=True).wait_for()
            assert await page.locator("#bot-id").inner_text() == "standup"


async def test_a_link_may_name_a_meeting_and_sends_nobody_there(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        await page.goto(address(api, f"?meeting={quote(MEETING)}"))
        await page.locator("#health[data-status]").wait_for()
        assert await page.get_by_label("Address").input_value() == MEETING
        assert await Bots(app).all() == []
        await page.get_by_label("Address").press("Enter")
        await page.locator("#bot-state", has_text="asked for").wait_for()
        assert (await only(app)).request.meeting_url == MEETING  # type: ignore[union-attr] - it was asked for


async def test_what_is_refused_is_said(broker: str) -> None:
    async with served(broker) as api, opened() as page:
        await page.goto(address(api))
        await page.get_by_label("Address").fill("meet.example.org")
        await page.get_by_role("button", name="Send a bot").click()
        alert = page.get_by_role("alert")
        await alert.wait_for()
        assert "has to be a whole address" in await alert.inner_text()
        assert not await page.locator("#bot").is_visible()
        assert await page.get_by_role("button", name="Send a bot").is_enabled()


async def test_what_a_meeting_says_is_shown_and_not_run(broker: str) -> None:
    name = "<img src=x onerror=\"document.title='run'\">"
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        await page.goto(address(api))
        await send(page)
        bot = await only(app)
        await advance(app, bot.bot_id, "starting", "joining", "capturing", people=(name,))
        assert bot.request is not None
        await say(app, bot.request.session_id, 0, start=1.0, speaker=name, said=(name, name))
        await page.locator("#lines .translation", has_text="onerror").wait_for()
        assert await page.locator("#participants li").inner_text() == name
        assert await page.locator("img").count() == 0
        assert await page.title() != "run"


async def test_the_system_is_folded_and_opens_without_a_mouse(broker: str) -> None:
    async with served(broker) as api, App("test", broker=broker) as app, opened() as page:
        errors = errors_of(page)
        sick = ServiceHealthReport(
            service="billing", instance="host:1", status="degraded", details=["the bank is away"]
        )
        await Board(app.records).note_health(sick)
        stalled = AnomalyDetected(
            anomaly_id="stall:detected", kind="stall", subject="orders/shipping", observed=30, expected=0, score=9,
            evidence="12 events wait and none was done for 30 s", detected_at=datetime.now(UTC),
        )  # fmt: skip
        await Anomalies(app).detected(stalled)
        for bot_id, room in (("one", "standup"), ("two", "retro")):
            wish = {"meeting_url": f"https://meet.example.org/{room}", "bot_id": bot_id}
            await api.client.post("/api/bots", json=wish)
        await page.goto(address(api))
        await page.locator("#health[data-status=degraded]").wait_for()
        assert not await page.locator("#services").is_visible()
        await page.locator("#system summary").focus()
        await page.keyboard.press("Enter")
        await page.locator("#services", has_text="the bank is away").wait_for()
        await page.locator("#anomalies", has_text="12 events wait").wait_for()
        await page.locator("#groups", has_text="transcripts").wait_for()
        await page.locator("#problems", has_text="bot-orchestrator").wait_for()
        await page.locator("#bot-id", has_text="two").wait_for()
        choice = page.locator("#bots").get_by_role("button", name="meet.example.org/standup")
        await choice.focus()
        await page.keyboard.press("Enter")
        await page.locator("#bot-id", has_text="one").wait_for()
        assert errors == []


#: What stands out of the window, or of its card. What is cut off with an ellipsis does not.
WIDE = """
[...document.querySelectorAll("main section *")].filter((each) => {
  const right = Math.min(innerWidth, each.closest("section").getBoundingClientRect().right);
  const isCut = each.parentElement.scrollWidth > each.parentElement.clientWidth
    && getComputedStyle(each.parentElement).textOverflow === "ellipsis";
  return !isCut && each.getBoundingClientRect().right > right + 1;
}).map((each) => each.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("width", [320, 390, 900, 1400])
async def test_nothing_is_wider_than_the_window(broker: str, width: int) -> None:
    crowd = tuple(f"Participant {n} of a department with a long name" for n in range(6))
    async with (
        served(broker) as api,
        App("test", broker=broker) as app,
        opened(viewport={"width": width, "height": 800}) as page,
    ):
        long = f"https://meet.example.org/{'a-room-with-a-very-long-name' * 5}"
        answer = await api.client.post("/api/bots", json={"meeting_url": long, "bot_id": "b" * 100})
        await advance(app, "b" * 100, "starting", "joining", "capturing", people=crowd)
        await say(app, answer.json()["session_id"], 0, start=1.0, speaker=crowd[0], said=("hello " * 30, "x" * 200))
        await page.goto(address(api))
        await page.locator("#lines .translation").wait_for()
        await page.locator("#health").click()
        await page.locator("#bots button").first.wait_for()
        assert await page.evaluate(WIDE) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
