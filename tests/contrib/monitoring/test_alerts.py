"""Who is told: each sink through a worker, the webhook against a real server that fails in every way."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="the extra `monitoring` is not installed")

from streamtask_contrib.events import AnomalyDetected
from streamtask_contrib.monitoring.alerts import delivering, routers, webhook
from streamtask_contrib.monitoring.settings import MonitoringSettings

from streamtask import App, ConfigurationError
from tests.chaos.workers import until

KEY = b"0123456789abcdefghijklmnopqrstuv"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def anomaly(number: int = 1, state: str = "detected", **more: Any) -> AnomalyDetected:
    return AnomalyDetected(
        anomaly_id=f"{number}:{state}",
        state=state,
        **{"kind": "stalled", "subject": "jobs/work", "observed": 25, "expected": 20, "score": 1.25}
        | {"evidence": "3 events wait", "severity": "critical"}
        | more,
    )


@dataclass
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        return json.loads(self.body)["data"]["anomaly_id"]


@dataclass
class Receiver:
    """An HTTP server that answers as the test says, and keeps what it was sent."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    #: Status and headers for a request; by its number from 0, and what it says.
    answer: Callable[[int, str], tuple[int, dict[str, str]]] = lambda _, __: (204, {})
    #: Requests wait here, while it is closed.
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/very-secret-path?token=very-secret-token"

    def accepted(self) -> list[str]:
        """What was received and not refused, in order."""
        return [one.said for number, one in enumerate(self.received) if self.answer(number, one.said)[0] < 300]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.received.append(Received({k.lower(): v for k, v in self.headers.items()}, body))
            number = len(receiver.received) - 1
            receiver.gate.wait(30)
            status, headers = receiver.answer(number, receiver.received[number].said)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@asynccontextmanager
async def alerting(**settings: Any) -> AsyncIterator[App]:
    app = App("monitoring", broker="memory://")
    for sink in routers(MonitoringSettings(**settings)):
        app.include(sink)
    async with app.worker():
        yield app


async def dead_reasons(app: App) -> list[tuple[str, str]]:
    letters = await app.transport.dead_letters.page("monitoring", after="", limit=10)
    return [(letter.reason, letter.error) for letter in letters]


async def test_a_webhook_is_signed_so_that_its_receiver_can_be_sure(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", f"{SECRET}\n")
    async with alerting(webhook_url=receiver.url, webhook_secret="env:HOOK_SECRET") as app:
        await app.publish(anomaly())
        await until(lambda: receiver.received, 10)
    [got] = receiver.received
    # As the specification has it: id, time and body, joined by dots.
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    wanted = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{wanted}"
    assert got.headers["webhook-id"] == "1:detected"
    assert abs(int(got.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    assert got.headers["content-type"] == "application/json"
    told = json.loads(got.body)
    assert told["type"] == "anomaly.detected"
    assert told["data"]["evidence"] == "3 events wait"


async def test_a_webhook_that_is_down_for_a_while_gets_each_alert_in_the_order_of_its_anomaly(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "_AGAIN", 0.1)
    # It fails for the first seven requests, in several ways.
    receiver.answer = lambda number, _: ((503, 500, 408, 429, 502)[number % 5] if number < 7 else 200, {})
    async with alerting(webhook_url=receiver.url) as app:
        await app.publish_many([anomaly(1), anomaly(2), anomaly(1, "recovered"), anomaly(2, "recovered")])
        await until(lambda: len(receiver.accepted()) >= 4, 30)
        assert await dead_reasons(app) == []
    accepted = receiver.accepted()
    assert set(accepted) == {"1:detected", "1:recovered", "2:detected", "2:recovered"}
    for number in (1, 2):
        assert accepted.index(f"{number}:detected") < accepted.index(f"{number}:recovered")
        # Not even asked for before.
        asked = [one.said for one in receiver.received]
        last = len(asked) - 1 - asked[::-1].index(f"{number}:detected")
        assert asked.index(f"{number}:recovered") > last
    assert all("webhook-signature" not in one.headers for one in receiver.received)


async def test_what_is_refused_is_a_dead_letter_at_once_and_its_recovery_goes_its_own_way(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "_AGAIN", 0.1)
    receiver.answer = lambda _, said: (400, {}) if said == "1:detected" else (200, {})
    async with alerting(webhook_url=receiver.url) as app:
        await app.publish_many([anomaly(1), anomaly(1, "recovered")])
        await until(lambda: receiver.accepted() == ["1:recovered"], 10)
        assert [one.said for one in receiver.received] == ["1:detected", "1:recovered"]
        assert await dead_reasons(app) == [("rejected", "Reject: the webhook refuses it: 400")]


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.answer = lambda *_: (307, {"location": elsewhere.url})
        async with alerting(webhook_url=receiver.url) as app:
            await app.publish(anomaly())

            async def is_dead() -> bool:
                return await dead_reasons(app) == [
                    ("rejected", "Reject: the webhook redirects, which is not followed: 307")
                ]

            await until(is_dead, 10)
        assert elsewhere.received == []


async def test_a_receiver_that_says_when_is_asked_then(receiver: Receiver) -> None:
    moments: list[float] = []

    def answer(number: int, _: str) -> tuple[int, dict[str, str]]:
        if len(moments) <= number:
            moments.append(datetime.now(UTC).timestamp())
        return (429, {"Retry-After": "2"}) if number == 0 else (200, {})

    receiver.answer = answer
    async with alerting(webhook_url=receiver.url) as app:
        await app.publish(anomaly())
        await until(lambda: len(moments) == 2, 15)
    assert moments[1] - moments[0] >= 1.8


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("999999999", webhook._LONGEST),
        (format_datetime(datetime.now(UTC) + timedelta(hours=5)), webhook._LONGEST),
        (format_datetime(datetime.now(UTC) - timedelta(hours=5)), 0.0),
        ("", None),
        ("soon", None),
        ("-3", None),
    ],
    # Test processes that run side by side must give it the same names: no moment may be in them.
    ids=["seconds", "too many", "a moment to come", "a moment that has passed", "nothing", "a word", "less than none"],
)
def test_what_a_receiver_says_is_bounded(header: str, seconds: float | None) -> None:
    assert webhook._pause(header, datetime.now(UTC)) == seconds


async def test_a_receiver_that_never_answers_costs_no_more_than_its_time(receiver: Receiver) -> None:
    receiver.gate.clear()
    async with alerting(webhook_url=receiver.url, webhook_timeout=0.2) as app:
        await app.publish(anomaly())
        await until(lambda: len(receiver.received) >= 3, 30)
        assert await dead_reasons(app) == []


async def test_nor_does_one_that_answers_a_byte_at_a_time() -> None:
    asked: list[bytes] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nx-endless: ")
            while len(asked) < 2:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with alerting(webhook_url=f"http://127.0.0.1:{port}/", webhook_timeout=2.0) as app:
            await app.publish(anomaly())
            await until(lambda: len(asked) >= 2, 20)


async def test_an_alert_that_nobody_took_for_too_long_is_given_up_and_lets_its_recovery_go(
    receiver: Receiver,
) -> None:
    old = datetime.now(UTC) - timedelta(seconds=60)
    async with alerting(webhook_url=receiver.url, alert_for=50.0) as app:
        await app.publish_many([anomaly(1, detected_at=old), anomaly(1, "recovered")])
        await until(lambda: receiver.accepted() == ["1:recovered"], 15)
        assert await dead_reasons(app) == [("rejected", "Reject: not delivered within 50 s")]


async def test_no_secret_stands_in_a_log_or_a_dead_letter(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "secret").write_text(SECRET)
    port = receiver.port
    receiver.answer = lambda number, _: (500, {}) if number == 0 else (403, {})
    async with alerting(webhook_url=receiver.url, webhook_secret=f"file:{tmp_path}/secret") as app:
        await app.publish(anomaly())

        async def is_dead() -> bool:
            return bool(await dead_reasons(app))

        await until(is_dead, 15)
        letters = await app.transport.dead_letters.page("monitoring", after="", limit=10)
    assert port
    told = caplog.text + repr(letters) + repr(MonitoringSettings(webhook_url=receiver.url))
    for secret in ("very-secret", SECRET, SECRET[6:20]):
        assert secret not in told


async def test_only_what_is_bad_enough_is_sent_and_the_log_has_all(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with alerting(webhook_url=receiver.url, alert_from="critical") as app:
        await app.publish_many([anomaly(1, severity="warning"), anomaly(2)])
        await until(lambda: receiver.received and caplog.text.count("anomaly.detected") == 2, 10)
    assert [one.said for one in receiver.received] == ["2:detected"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of apprise's own imports
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"webhook_url": "ftp://example.org"}, "WEBHOOK_URL is no http"),
        ({"webhook_url": "hooks.example.org"}, "WEBHOOK_URL is no http"),
        ({"webhook_url": "http://a", "webhook_secret": "env:NOT_THERE"}, "env:NOT_THERE cannot be read"),
        ({"webhook_url": "http://a", "webhook_secret": "file:/not/there"}, "file:/not/there cannot be read"),
        ({"webhook_url": "http://a", "webhook_secret": "env:SHORT"}, "env:SHORT holds"),
        ({"apprise": "env:SHORT"}, "line 1 is no address"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "whsec_dG9vIHNob3J0")
    with pytest.raises(ConfigurationError, match=message) as raised:
        routers(MonitoringSettings(**settings))
    assert "dG9v" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of apprise's own imports
async def test_apprise_sends_to_each_address_once_also_where_another_fails(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("apprise", reason="the extra `alerts` is not installed")
    caplog.set_level(logging.DEBUG)
    with receiving() as failing:
        # What apprise sends has another form; all that is asked here is how often it comes.
        for each in (receiver, failing):
            monkeypatch.setattr(Received, "said", property(lambda one: one.body.decode()))
            each.answer = lambda *_: (200, {})
        failing.answer = lambda number, _: (500 if number < 2 else 200, {})
        addresses = [f"json://127.0.0.1:{each.port}/very-secret-path" for each in (receiver, failing)]
        monkeypatch.setenv("ADDRESSES", "\n".join(addresses))
        async with alerting(apprise="env:ADDRESSES") as app:
            await app.publish(anomaly())
            await until(lambda: len(failing.received) == 3, 20)
    assert len(receiver.received) == 1
    assert "3 events wait" in receiver.received[0].body.decode()
    assert "very-secret" not in caplog.text
