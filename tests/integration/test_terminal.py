"""What others write into Redis is shown and never obeyed: no control byte on a terminal, no forged line in a log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ask, run
from tests.servers import RedisServer

#: Clears a screen, sets a colour by one byte, rings, ends a line, forges one, and turns the direction of text.
NASTY = "\x1b[2J\x9b31m\x07\r\n00:00:00.000 INFO forged\u202e\u061c\u2066\x00\u2028end"
NASTY_NAME = NASTY.replace("\x00", "")
#: Everything that a terminal obeys, or that ends or reorders a line, but the line's own end.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

APP = """
import logging
from streamtask import App, Event, Retry

app = App("shop")
NASTY = {nasty!r}


class Job(Event, stream="jobs"):
    n: int


@app.on(Job, retry=Retry(1))
async def handle(job: Job) -> None:
    logging.getLogger(NASTY).warning(NASTY, extra={{"field": NASTY, "nested": {{NASTY: [NASTY]}}, NASTY: 1}})
    raise ValueError(NASTY)
"""


def envelope(**changes: Any) -> bytes:
    """Somebody else's event, nasty in every word."""
    good = {
        "schema_version": "v1", "event_id": NASTY, "event_type": "Job", "source": NASTY, "key": NASTY,
        "timestamp": "2024-10-19T12:34:56.789Z", "trace_id": NASTY, "payload": {"n": 1}, "headers": {NASTY: NASTY},
    }  # fmt: skip
    return json.dumps(good | changes, ensure_ascii=False).encode()


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """A server with nasty names in every place where another program may write one."""
    client = redis_server.client()
    for stream in ("jobs", NASTY_NAME):
        client.sadd("{streamtask}:streams", stream)
        client.xadd(f"stream:{stream}", {"envelope": envelope()})
        client.xadd(f"stream:{stream}", {"envelope": envelope(event_type=NASTY)})
        client.xadd(f"stream:{stream}", {NASTY: NASTY})
        client.xgroup_create(f"stream:{stream}", NASTY_NAME, "0")
        client.xreadgroup(NASTY_NAME, NASTY_NAME, {f"stream:{stream}": ">"}, count=2)
        letter = {
            "group": NASTY,
            "entry_id": "1-0",
            "reason": NASTY,
            "error": NASTY,
            "traceback": NASTY,
            "worker": NASTY,
        }
        client.xadd(f"{{stream:{stream}}}:dead", letter | {"event_type": NASTY, "field:envelope": envelope()})
        client.hset(f"{{stream:{stream}}}:skipped:{NASTY_NAME}", mapping={NASTY: "1-0", f"{NASTY}\tn": 3})
        client.zadd(f"{{stream:{stream}}}:delayed", {NASTY: 9e12})
    client.set("{streamtask}:beat:" + NASTY, json.dumps({"host": NASTY, "pid": 1, "groups": [NASTY], "running": 0}))
    client.zadd("{streamtask}:workers", {NASTY: 9e12})
    return redis_server


async def test_no_command_hands_a_control_byte_to_the_terminal(server: RedisServer) -> None:
    dead = (await ask(server.url, "dead", "list", "--json")).document
    questions = [["inspect", what] for what in ("groups", "pending", "workers", "streams", "consumers", "scheduled")]
    questions += [["dead", "list"], ["groups", "list"], ["doctor"], ["inspect", "event", NASTY.replace("\x00", "")]]
    questions += [["dead", "show", letter["id"]] for letter in dead if "\x00" not in letter["id"]]
    said = {}
    for question in questions:
        for form in ([], ["--json"]):
            answer = await ask(server.url, *question, *form)
            said[" ".join(question + form)] = answer.out + answer.err

    assert sum("forged" in text for text in said.values()) >= 2 * (len(questions) - 3)
    assert {question: _OBEYED.findall(text) for question, text in said.items() if _OBEYED.search(text)} == {}
    assert [question for question, text in said.items() if "\n00:00:00.000 INFO forged" in text] == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_event_forges_a_line_of_a_log(server: RedisServer, tmp_path: Path, log_format: str) -> None:
    (tmp_path / "app.py").write_text(APP.format(nasty=NASTY))

    answer = run(
        "worker", "-A", "app:app", "--burst", "--log-format", log_format, folder=tmp_path, STREAMTASK_BROKER=server.url
    )

    assert answer.code == 0, answer.err
    assert "event.dead" in answer.err
    assert answer.err.count("forged") > 5
    assert _OBEYED.findall(answer.err) == []
    lines = answer.err.splitlines()
    if log_format == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
    else:
        # A moment and a level begin a line; a traceback is indented.
        assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d\.\d{3} [A-Z]+ |    ", line)] == []
        assert [line for line in lines if line.startswith("00:00:00.000")] == []
