"""Probes: a deaf worker is not ready, a busy one is live, and the server answers whatever the loop does."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from streamtask.errors import ConfigurationError
from streamtask.telemetry.exposition import CONTENT_TYPE
from streamtask.telemetry.metrics import Metrics
from streamtask.worker.health import Health
from streamtask.worker.probes import MAX_CONNECTIONS, Probes


@pytest.fixture
def health() -> Health:
    """A worker that started at 100 s and has read and beaten once since."""
    health = Health(100.0)
    health.expect("shipping", 100.0)
    health.read_ok("shipping", 101.0)
    health.beat_ok(101.0)
    return health


def reasons(health: Health, now: float) -> list[str]:
    ready, detail = health.ready(now)
    found = detail["reasons"]
    assert isinstance(found, list)
    assert ready == (not found)
    return found


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_is_not_ready_before_its_first_read() -> None:
    health = Health(100.0)
    assert "no group" in reasons(health, 100.5)[0]
    health.expect("shipping", 100.0)
    assert "starting" in reasons(health, 101.0)[0]
    health.read_ok("shipping", 102.0)
    assert reasons(health, 102.0) == []


def test_a_deaf_group_makes_the_worker_unready_and_is_named(health: Health) -> None:
    health.expect("billing", 101.0)
    health.read_ok("billing", 101.0)
    for now in range(102, 112):
        health.beat_ok(now)
        health.read_ok("billing", now)
    assert reasons(health, 111.0) == []
    [reason] = reasons(health, 111.1)
    assert "shipping" in reason
    assert "10.1 s" in reason
    health.read_ok("shipping", 112.0)
    assert reasons(health, 112.0) == []


def test_a_group_whose_first_read_never_completes_is_deaf() -> None:
    health = Health(100.0)
    health.expect("shipping", 100.0)
    health.beat_ok(111.0)
    assert "no read completed for 11.0 s" in reasons(health, 111.0)[0]


def test_a_saturated_group_need_not_read(health: Health) -> None:
    health.paused("shipping", 102.0, paused=True)
    health.beat_ok(500.0)
    assert reasons(health, 500.0) == []


def test_after_a_pause_the_group_has_its_full_time_to_read(health: Health) -> None:
    health.paused("shipping", 102.0, paused=True)
    health.paused("shipping", 500.0, paused=False)
    health.beat_ok(510.0)
    assert reasons(health, 509.9) == []
    assert "no read" in reasons(health, 510.1)[0]


def test_saying_again_that_it_is_not_paused_does_not_hide_deafness(health: Health) -> None:
    for now in range(102, 113):
        health.beat_ok(now)
        health.paused("shipping", now, paused=False)
    assert "no read" in reasons(health, 112.0)[0]


def test_failing_beats_make_the_worker_unready_but_not_dead(health: Health) -> None:
    for now in range(102, 200):
        health.read_ok("shipping", now)
        health.keeper_turned(now)
    assert reasons(health, 111.0) == []
    assert "no heartbeat" in reasons(health, 112.0)[0]
    assert health.live(199.0)[0]


def test_a_draining_worker_is_live_and_not_ready(health: Health) -> None:
    health.stopping()
    assert reasons(health, 101.0) == ["stopping"]
    assert health.live(101.0)[0]


def test_a_blocked_loop_alone_does_not_kill_a_worker_whose_keeper_turns(health: Health) -> None:
    health.loop_turned(101.0)
    health.keeper_turned(1_000.0)
    assert health.live(1_001.0)[0]


def test_a_process_in_which_nothing_turns_is_not_live(health: Health) -> None:
    health.loop_turned(105.0)
    assert health.live(135.0)[0]
    live, detail = health.live(135.1)
    assert not live
    assert detail == {"loop_turned_s": 30.1, "keeper_s": 34.1}


def test_the_bounds_can_be_set() -> None:
    health = Health(0.0, deaf_after=1.0, stuck_after=2.0)
    health.read_ok("shipping", 0.0)
    assert len(reasons(health, 1.5)) == 2
    assert health.live(2.0)[0]
    assert not health.live(2.5)[0]


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """Verdicts that a test sets."""

    def __init__(self) -> None:
        self.live: tuple[bool, dict[str, object]] = (True, {})
        self.ready: tuple[bool, dict[str, object]] = (True, {})
        self.metrics = Metrics()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def probes(worker: Worker) -> Iterator[Probes]:
    probes = Probes(live=lambda: worker.live, ready=lambda: worker.ready, metrics=worker.metrics.render)
    probes.start()
    yield probes
    probes.stop()
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("streamtask-probe")]


def ask(probes: Probes, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(probes.host, probes.port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_listens_on_loopback_only_by_default(probes: Probes) -> None:
    assert probes.host == "127.0.0.1"
    assert probes.port > 0


@pytest.mark.parametrize("path", ["/live", "/ready", "/ready?verbose=1"])
def test_a_good_verdict_is_200_and_a_bad_one_503_with_the_reason(probes: Probes, worker: Worker, path: str) -> None:
    response, body = ask(probes, path)
    assert (response.status, json.loads(body)) == (200, {"ok": True})
    worker.live = worker.ready = (False, {"reasons": ["no read for 11 s"]})
    response, body = ask(probes, path)
    assert response.status == 503
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"ok": False, "reasons": ["no read for 11 s"]}


def test_metrics_are_those_of_the_worker(probes: Probes, worker: Worker) -> None:
    worker.metrics.published("orders", 3)
    response, body = ask(probes, "/metrics")
    assert response.headers["Content-Type"] == CONTENT_TYPE
    assert b'streamtask_published_total{stream="orders"} 3.0\n' in body


def test_head_is_get_without_the_body(probes: Probes) -> None:
    response, body = ask(probes, "/live", "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/", "/live/", "/metrics/../live", "/%6cive", "/admin"])
def test_other_paths_are_404_and_name_the_known_ones(probes: Probes, path: str) -> None:
    response, body = ask(probes, path)
    assert response.status == 404
    assert b"/ready" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_answered(probes: Probes, method: str) -> None:
    response, _ = ask(probes, "/live", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_an_answer_names_no_version_and_is_not_cached(probes: Probes) -> None:
    response, _ = ask(probes, "/live")
    assert response.headers["Server"].strip() == "streamtask"
    assert response.headers["Cache-Control"] == "no-store"


def test_secrets_in_a_verdict_are_masked(probes: Probes, worker: Worker) -> None:
    worker.ready = (False, {"reasons": ["lost redis://worker:canary-77@db:6379/0"]})
    assert b"canary-77" not in ask(probes, "/ready")[1]


async def test_it_answers_while_the_event_loop_is_blocked(probes: Probes) -> None:
    # The blocking request runs on the loop itself: only another thread can answer it.
    assert ask(probes, "/live")[0].status == 200


def test_a_verdict_that_fails_is_a_500_a_log_line_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    failing = [True]

    def live() -> tuple[bool, dict[str, object]]:
        if failing:
            raise RuntimeError(failing.pop())
        return True, {}

    probes = Probes(live=live, ready=live, metrics=bytes)
    probes.start()
    try:
        with caplog.at_level(logging.ERROR):
            assert ask(probes, "/live")[0].status == 500
        assert "probes.failed" in caplog.messages
        assert ask(probes, "/live")[0].status == 200
    finally:
        probes.stop()


def test_a_taken_port_is_an_error_that_says_so(probes: Probes, worker: Worker) -> None:
    second = Probes(live=lambda: worker.live, ready=lambda: worker.ready, metrics=bytes, port=probes.port)
    with pytest.raises(ConfigurationError, match=rf"port {probes.port} on 127.0.0.1 is taken"):
        second.start()
    second.stop()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0)])
def test_an_impossible_address_is_an_error_that_names_it(host: str, port: int) -> None:
    probes = Probes(live=lambda: (True, {}), ready=lambda: (True, {}), metrics=bytes, host=host, port=port)
    with pytest.raises(ConfigurationError, match=f"{host}, port {port}"):
        probes.start()


def test_start_and_stop_may_be_called_again(probes: Probes) -> None:
    probes.start()
    probes.stop()
    probes.stop()
    assert probes.port == 0
    probes.start()
    assert ask(probes, "/live")[0].status == 200


def test_stop_does_not_wait_for_a_silent_client(probes: Probes) -> None:
    with socket.create_connection((probes.host, probes.port)) as silent:
        silent.sendall(b"GET /li")
        until(lambda: len(threads()) == 2)
        began = time.monotonic()
        probes.stop()
        assert time.monotonic() - began < 4
        assert threads() == []


def test_a_flood_of_silent_clients_is_bounded_and_over_when_they_leave(probes: Probes) -> None:
    flood = [socket.create_connection((probes.host, probes.port)) for _ in range(MAX_CONNECTIONS + 5)]
    try:
        flood[-1].settimeout(20)
        assert flood[-1].recv(1) == b""
        answering = [thread for thread in threads() if thread.name == "streamtask-probe"]
        assert len(answering) == MAX_CONNECTIONS
    finally:
        for connection in flood:
            connection.close()
    until(lambda: not any(thread.is_alive() for thread in answering))
    assert ask(probes, "/live")[0].status == 200


def test_rubbish_does_no_harm(probes: Probes) -> None:
    for rubbish in (
        b"\x16\x03\x01\x00\xff" * 100,
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 70_000,
    ):
        with socket.create_connection((probes.host, probes.port)) as connection:
            connection.sendall(rubbish)
    assert ask(probes, "/live")[0].status == 200
