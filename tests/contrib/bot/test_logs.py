"""Logs of bots as events: whole lines in order, none twice and none left out, whoever dies in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from streamtask_contrib.bot import logs as module
from streamtask_contrib.bot.logs import Logs
from streamtask_contrib.bot.states import Bot, ProcessIdentity

from streamtask import App, PublishError


@pytest.fixture
async def app(broker: str) -> AsyncIterator[App]:
    async with App("test", broker=broker) as made:
        yield made


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "b.1.log"


def bot(written: Path, attempt: int = 1) -> Bot:
    return Bot(bot_id="b", attempt=attempt, process=ProcessIdentity(place="here", pid=7, started=1.0, log=str(written)))


async def told(app: App) -> list[tuple[int, list[str]]]:
    entries = await app.transport.read("bot-logs", after="0", count=1000, wait=0)
    return [(each["position"], each["lines"]) for each in (app.broker.decode(entry).payload for entry in entries)]


def add(written: Path, text: bytes) -> None:
    with written.open("ab") as file:
        file.write(text)


async def test_whole_lines_are_told_as_they_come_and_the_rest_at_the_end(app: App, written: Path) -> None:
    logs = Logs(app, kept=60)
    await logs.follow(bot(written))
    add(written, b"one\ntw")
    await logs.follow(bot(written))
    await logs.follow(bot(written))
    add(written, b"o\n\nfour \xff\n")
    await logs.follow(bot(written))
    add(written, b"without an end")
    await logs.follow(bot(written))
    assert await told(app) == [(0, ["one"]), (4, ["two", "", "four \ufffd"])]
    await logs.follow(bot(written), is_over=True)
    assert (await told(app))[2:] == [(16, ["without an end"])]
    await logs.follow(bot(written), is_over=True)
    assert len(await told(app)) == 3


async def test_one_that_comes_after_goes_on_where_the_last_has_ended(app: App, written: Path) -> None:
    add(written, b"one\n")
    await Logs(app, kept=60).follow(bot(written))
    add(written, b"two\n")
    await Logs(app, kept=60).follow(bot(written))
    await Logs(app, kept=60).follow(bot(written), is_over=True)
    assert await told(app) == [(0, ["one"]), (4, ["two"])]


class Dying:
    """An app that dies at its next publish: before it is stored, or behind it."""

    def __init__(self, app: App, *, stores: bool) -> None:
        self._app = app
        self._stores = stores
        self.records = app.records

    async def publish(self, event: Any, *, dedup_key: str | None = None) -> str:
        if self._stores:
            await self._app.publish(event, dedup_key=dedup_key)
        raise PublishError("dies", event_id="1")


@pytest.mark.parametrize("stores", [True, False], ids=["behind", "before"])
async def test_lines_of_one_who_died_at_publishing_are_told_once(app: App, written: Path, *, stores: bool) -> None:
    add(written, b"one\ntwo\n")
    with pytest.raises(PublishError):
        await Logs(Dying(app, stores=stores), kept=60).follow(bot(written))
    # By then there are more: the next one must not take them for told.
    add(written, b"three\n")
    await Logs(app, kept=60).follow(bot(written))
    assert await told(app) == [(0, ["one", "two"]), (8, ["three"])]


@pytest.mark.parametrize("stores", [True, False], ids=["stored", "not stored"])
async def test_one_that_does_not_know_whether_it_has_published_tries_the_same_again(
    app: App, written: Path, *, stores: bool
) -> None:
    logs = Logs(app, kept=60)
    add(written, b"one\n")
    await logs.follow(bot(written))
    add(written, b"two\n")
    logs._app = Dying(app, stores=stores)
    with pytest.raises(PublishError):
        await logs.follow(bot(written))
    add(written, b"three\n")
    logs._app = app
    await logs.follow(bot(written))
    assert await told(app) == [(0, ["one"]), (4, ["two"]), (8, ["three"])]


async def test_attempts_have_logs_of_their_own(app: App, written: Path, tmp_path: Path) -> None:
    logs = Logs(app, kept=60)
    add(written, b"first\n")
    await logs.follow(bot(written))
    add(tmp_path / "b.2.log", b"second\n")
    await logs.follow(bot(tmp_path / "b.2.log", attempt=2))
    assert await told(app) == [(0, ["first"]), (0, ["second"])]


async def test_what_is_written_without_end_is_told_in_pieces(
    app: App, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", 8)
    add(written, b"one\ntwo\nthree\n" + b"x" * 20 + b"\nend\n")
    logs = Logs(app, kept=60)
    for _ in range(10):
        await logs.follow(bot(written))
    pieces = await told(app)
    assert [position for position, _ in pieces] == [0, 8, 14, 22, 30, 35]
    assert pieces[0][1] == ["one", "two"]
    assert "".join(line for _, lines in pieces[2:5] for line in lines) == "x" * 20
    assert pieces[5][1] == ["end"]
