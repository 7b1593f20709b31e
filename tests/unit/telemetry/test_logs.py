"""Log lines: one event is one line, it carries what is being handled, and no secret leaves."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time
from pathlib import Path

import pytest

from streamtask.errors import ConfigurationError
from streamtask.telemetry import logs
from streamtask.telemetry.logs import Bound, ContextFilter, ContextLogger, JsonFormatter, TextFormatter

HANDLED = Bound("11111111-aaaa", "OrderPlaced", "0af7651916cd43dd8448eb211c80319c", 2, "orders", "shipping")


def a_logger(name: str) -> logging.Logger:
    """A logger in a hierarchy of its own, which no other test sees."""
    return logging.Manager(logging.RootLogger(logging.DEBUG)).getLogger(name)


@pytest.fixture
def log() -> logging.Logger:
    return a_logger("streamtask.worker.lease")


@pytest.fixture
def handled() -> Iterator[Bound]:
    token = logs.bind((HANDLED, HANDLED))
    yield HANDLED
    logs.unbind(token)


@contextmanager
def bare_logging() -> Iterator[None]:
    """The root logger and streamtask's as they are in a fresh process; as they were again afterwards.

    No fixture: pytest adds handlers of its own between the fixtures and the test.
    """
    root, ours = logging.getLogger(), logging.getLogger("streamtask")
    saved = root.handlers[:], root.level, ours.handlers[:], ours.level
    root.handlers, ours.handlers = [], []
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        root.handlers, ours.handlers = saved[0], saved[2]
        root.setLevel(saved[1])
        ours.setLevel(saved[3])


def to(logger: logging.Logger, formatter: logging.Formatter) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return stream


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_line_is_time_level_event_and_fields(log: logging.Logger) -> None:
    stream = to(log, TextFormatter())
    log.warning("lease.lost", extra={"stream": "orders", "entry_id": "1700-0", "attempt": 3})
    clock, rest = stream.getvalue().split(" ", 1)
    assert time.fromisoformat(clock)
    assert len(clock) == len("12:34:56.789")
    assert rest == "WARNING lease.lost stream=orders entry_id=1700-0 attempt=3\n"


@pytest.mark.parametrize(
    "nasty", ["a\nb", "a\r\nb", "\x1b[31mred", "\x00", "\x9b2J", "a\u2028b", "\u202eevil", "\u061cx", "\ud800"]
)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_whatever_stands_in_it_an_event_is_one_printable_line(
    log: logging.Logger, formatter: logging.Formatter, nasty: str
) -> None:
    stream = to(log, formatter)
    log.info("got %s", nasty, extra={"value": nasty, "inner": [nasty], "odd key\n": 1})
    written = stream.getvalue()
    assert len(written.splitlines()) == 1
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert written.encode("utf-8")


def test_a_value_cannot_pass_for_another_field(log: logging.Logger) -> None:
    stream = to(log, TextFormatter())
    log.info("did", extra={"name_": 'x event_id=forged "', "path": "a\\nb", "none": ""})
    assert stream.getvalue().endswith(r'INFO did name_="x event_id=forged \"" path="a\\nb" none=""' + "\n")


def test_a_traceback_is_indented_so_that_it_cannot_forge_a_line(log: logging.Logger) -> None:
    stream = to(log, TextFormatter())
    try:
        raise ValueError("first\n00:00:00.000 ERROR forged.line\r00:00:00 ERROR forged.too")
    except ValueError:
        log.exception("handler.failed")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("ERROR handler.failed")
    assert any("ValueError: first" in line for line in others)
    assert all(line.startswith("    ") for line in others)


def test_text_names_the_logger_of_foreign_lines_only() -> None:
    stream = to(foreign := a_logger("shop.orders"), TextFormatter())
    foreign.info("paid %d of %d", 1, 2)
    assert stream.getvalue().endswith("INFO paid 1 of 2 logger=shop.orders\n")


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_json_line_is_one_object_with_utc_time_and_all_fields(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    log.warning("lease.lost", extra={"entry_id": "1700-0", "seconds": 0.5, "ids": ("a", "b"), "nested": {"k": None}})
    line = json.loads(stream.getvalue())
    assert datetime.fromisoformat(line.pop("ts")).utcoffset() is not None
    assert line == {
        "level": "WARNING",
        "logger": "streamtask.worker.lease",
        "event": "lease.lost",
        "entry_id": "1700-0",
        "seconds": 0.5,
        "ids": ["a", "b"],
        "nested": {"k": None},
    }


def test_a_json_line_has_the_exception_as_one_string(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    try:
        raise ValueError("no\nsuch")
    except ValueError:
        log.exception("handler.failed", stack_info=True)
    line = json.loads(stream.getvalue())
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: no\nsuch")
    assert "test_logs" in line["stack"]


def test_a_field_cannot_replace_what_every_json_line_has(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    log.info("did", extra={"event": "forged", "level": "DEBUG", "ts": 0})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("did", "INFO")
    assert (line["extra_event"], line["extra_level"], line["extra_ts"]) == ("forged", "DEBUG", 0)


def test_json_is_strict_whatever_the_values_are(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    itself: list[object] = []
    itself.append(itself)
    fields = {"nan": float("nan"), "inf": float("inf"), "raw": b"\xff\x00", "error": ValueError("x"), "loop": itself}
    log.info("did", extra={**fields, "keys": {1: {2}}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(stream.getvalue(), parse_constant=refuse)
    assert (line["nan"], line["inf"], line["error"], line["keys"]) == ("nan", "inf", "ValueError: x", {"1": [2]})
    assert line["raw"] == "\\xff\x00"


def test_a_huge_field_keeps_its_ends_only(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    log.info("did", extra={"huge": "a" + "x" * 1_000_000 + "z"})
    huge = json.loads(stream.getvalue())["huge"]
    assert len(huge) < logs.FIELD_LIMIT + 100
    assert (huge[0], huge[-1]) == ("a", "z")


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_passwords_in_urls_are_masked_wherever_they_stand(log: logging.Logger, formatter: logging.Formatter) -> None:
    stream = to(log, formatter)
    url = "redis://worker:canary-77@db:6379/0"
    try:
        raise OSError(f"cannot reach {url}")
    except OSError as error:
        log.exception(
            "broker.lost %s", url, extra={"url": url, "deep": {"k": [url]}, "error": error, "raw": url.encode()}
        )
    assert "canary-77" not in stream.getvalue()
    assert "db:6379" in stream.getvalue()


def test_a_secret_at_the_cut_of_a_huge_field_is_masked(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    text = "redis://worker:" + "canary77" * 3_000 + "@db:6379/0"
    log.info("did", extra={"text": text})
    assert "canary77" not in stream.getvalue()


# ── what is being handled ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_any_loggers_line_carries_what_is_being_handled(handled: Bound, formatter: logging.Formatter) -> None:
    stream = to(foreign := a_logger("some.library"), formatter)
    foreign.info("connected")
    for name, value in handled._asdict().items():
        assert str(value) in stream.getvalue(), name


def test_a_lines_own_fields_win_over_the_bound_ones(log: logging.Logger, handled: Bound) -> None:
    stream = to(log, JsonFormatter())
    log.info("event.published", extra={"event_id": "another", "stream": "shipping"})
    line = json.loads(stream.getvalue())
    assert (line["event_id"], line["stream"], line["trace_id"]) == ("another", "shipping", handled.trace_id)


def test_nothing_is_bound_before_or_after() -> None:
    assert logs.current() is None
    token = logs.bind((HANDLED, HANDLED))
    assert logs.current() == HANDLED
    logs.unbind(token)
    assert logs.current() is None


def test_an_unbound_line_has_no_empty_fields(log: logging.Logger) -> None:
    log.addFilter(ContextFilter())
    stream = to(log, JsonFormatter())
    log.info("worker.started")
    assert set(json.loads(stream.getvalue())) == {"ts", "level", "logger", "event"}


async def test_tasks_that_run_at_once_do_not_see_each_others_events(log: logging.Logger) -> None:
    stream = to(log, JsonFormatter())
    all_bound = asyncio.Barrier(20)

    async def handle(number: int) -> None:
        logs.bind((HANDLED._replace(event_id=f"id-{number}"), HANDLED))
        await all_bound.wait()
        await asyncio.to_thread(log.info, "did", extra={"number": number})

    await asyncio.gather(*map(handle, range(20)))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sorted(line["number"] for line in lines) == list(range(20))
    assert all(line["event_id"] == f"id-{line['number']}" for line in lines)
    assert logs.current() is None


def test_the_context_logger_puts_the_ids_on_the_record_for_foreign_formatters_and_threads(handled: Bound) -> None:
    stream = to(logger := a_logger("shop"), logging.Formatter("%(message)s %(event_id)s %(trace_id)s %(order)s"))
    log = ContextLogger(logger)
    thread = threading.Thread(target=log.info, args=("did",), kwargs={"extra": {"order": 7}})
    thread.start()
    thread.join()
    assert stream.getvalue() == f"did {handled.event_id} {handled.trace_id} 7\n"


def test_the_context_logger_never_fails_a_handler_over_a_fields_name() -> None:
    stream = to(logger := a_logger("shop"), JsonFormatter())
    ContextLogger(logger, HANDLED).info("did", extra={"name": "n", "args": 1, "message": "m", "process": "p"})
    line = json.loads(stream.getvalue())
    assert (line["extra_name"], line["extra_args"], line["extra_message"]) == ("n", 1, "m")
    assert line["event_id"] == HANDLED.event_id


def test_the_context_logger_works_where_nothing_is_bound() -> None:
    stream = to(logger := a_logger("shop"), JsonFormatter())
    ContextLogger(logger).info("did")
    assert json.loads(stream.getvalue())["event"] == "did"


def test_the_filter_gives_a_users_own_format_the_ids(log: logging.Logger, handled: Bound) -> None:
    stream = to(log, logging.Formatter("%(event_id)s/%(attempt)s %(message)s"))
    log.addFilter(ContextFilter())
    log.info("did")
    assert stream.getvalue() == f"{handled.event_id}/2 did\n"


def test_binding_is_cheap_enough_for_every_delivery() -> None:
    # Measured at 0.2 µs; the bound only catches a change of kind.
    def once() -> None:
        logs.bind((HANDLED, HANDLED))

    def measure() -> float:
        return min(timeit.repeat(once, number=2_000, repeat=5)) / 2_000

    thread_result: list[float] = []
    thread = threading.Thread(target=lambda: thread_result.append(measure()))
    thread.start()
    thread.join()
    assert thread_result[0] < 20e-6


# ── the command line's set-up ─────────────────────────────────────────────────────────────────────────────────────


def test_configure_writes_streamtasks_and_the_users_lines_once_each() -> None:
    with bare_logging():
        stream = io.StringIO()
        logs.configure("json", "info", stream)
        logging.getLogger("streamtask.worker").info("worker.started")
        logging.getLogger("shop").info("hello")
        logging.getLogger("shop").debug("hidden")
        assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["worker.started", "hello"]


def test_configure_again_replaces_what_it_installed() -> None:
    with bare_logging():
        first, second = io.StringIO(), io.StringIO()
        logs.configure("json", "INFO", first)
        logs.configure("text", "DEBUG", second)
        logging.getLogger("streamtask").debug("did")
        assert first.getvalue() == ""
        assert second.getvalue().endswith(" DEBUG did\n")
        assert len(logging.getLogger().handlers) == 1


@pytest.mark.parametrize("name", [None, "streamtask"])
def test_configure_leaves_a_users_own_setup_alone(name: str | None) -> None:
    with bare_logging():
        theirs = logging.StreamHandler(io.StringIO())
        logging.getLogger(name).addHandler(theirs)
        assert logs.configure("json", "DEBUG", io.StringIO()) is None
        assert logging.getLogger(name).handlers == [theirs]
        assert logging.getLogger().level == logging.WARNING
        assert logging.getLogger("streamtask").level == logging.NOTSET


def test_configure_before_the_users_module_makes_its_basic_config_harmless() -> None:
    with bare_logging():
        stream = io.StringIO()
        logs.configure("json", "INFO", stream)
        logging.basicConfig(level=logging.DEBUG, stream=io.StringIO())
        logging.getLogger("shop").info("hello")
        assert json.loads(stream.getvalue())["event"] == "hello"


class _Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_lines_that_cannot_be_written_are_left_out_and_told_of_when_there_is_room(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_logging():
        stream = _Disk()
        logs.configure("json", "INFO", stream)
        log = logging.getLogger("shop")
        log.info("before")
        stream.full = True
        for _ in range(3):
            log.info("to nobody")
        stream.full = False
        log.info("after")
        log.info("later")

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["before", "after", "log.works_again", "later"]
    assert lines[2]["left_out"] == 3
    assert capsys.readouterr().err == ""


def test_a_line_that_is_wrong_itself_is_shown_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_logging():
        stream = io.StringIO()
        logs.configure("json", "INFO", stream)
        logging.getLogger("shop").info("%d events", "many")

    assert stream.getvalue() == ""
    assert "TypeError" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_cannot_be_written_at_the_end_does_not_become_the_exit_code(stream: str) -> None:
    code = f"""
import sys
from streamtask.telemetry import logs
sys.{stream}.write("last words")
logs.let_go()
sys.exit(3)
"""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full},  # type: ignore[call-overload]
        )
    assert ended.returncode == 3


@pytest.mark.parametrize(("wrong", "known"), [({"format": "xml"}, "json"), ({"level": "loud"}, "warning")])
def test_a_wrong_word_is_answered_with_the_known_ones(wrong: dict[str, str], known: str) -> None:
    with bare_logging(), pytest.raises(ConfigurationError, match=known):
        logs.configure(**wrong)  # type: ignore[arg-type]  # the wrong words are the point
