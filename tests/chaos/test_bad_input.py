"""Malformed entries from any producer: each becomes one dead letter, whole, and never a worker's trouble."""

from __future__ import annotations

import functools
import gzip
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from streamtask import App
from streamtask.errors import TransportError
from tests.chaos.conftest import Measured, StartWorker
from tests.chaos.workers import Job, Ledger, dead_letters, emitted, nothing_pending, pending, until
from tests.servers import RedisServer

HANDLER = """
@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    note("end", job.n, ctx.attempt)
"""

#: Handlers that end in what cannot be told, or cannot be done, as they say it.
UNTELLABLE = """
class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("has no text")


@app.on(Job, retry=Retry(1))
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if job.kind == "a lone surrogate":
        raise OSError("no such file: \\udcff")
    if job.kind == "no text":
        raise Speechless
    if job.kind == "rejected":
        raise Reject("\\udcff")
    if job.kind == "later":
        raise RetryLater(delay=float("nan"))
    if job.kind == "emits later":
        ctx.emit(Made(n=job.n), delay=float("inf"))
    note("end", job.n, ctx.attempt)


@app.on(Job, group="moody", retry=Retry(2, backoff=lambda attempt: 1 / 0))
async def moody(job: Job, ctx: Context) -> None:
    if job.kind == "backoff":
        raise ValueError("fails, and its backoff too")
    note("moody", job.n, ctx.attempt)
"""

UNTELLABLE = "from streamtask import RetryLater\n" + UNTELLABLE

#: Emits into a stream that the server refuses.
REFUSED = """
@app.on(Job)
async def handle(job: Job, ctx: Context) -> None:
    note("start", job.n, ctx.attempt)
    if job.kind == "emits":
        ctx.emit(Made(n=job.n))
    note("end", job.n, ctx.attempt)
"""

#: One entry as it is put in: field name, value.
Fields = list[tuple[bytes, bytes]]

#: What a good envelope has; its handling would note -1.
GOOD: dict[str, Any] = {
    "schema_version": "v1",
    "event_id": "8d7cf34e-9b6f-4bb3-a87c-0b0f0f9c64a9",
    "event_type": "Job",
    "source": "elsewhere",
    "timestamp": "2024-10-19T12:34:56.789Z",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "payload": {"n": -1},
}
_ABSENT = object()


def envelope(**changes: Any) -> bytes:
    """A good envelope with these fields changed, or left out."""
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not _ABSENT}).encode()


def envelope_with(n: bytes) -> bytes:
    """A good envelope whose payload's `n` is these bytes."""
    return envelope().replace(b'"n": -1', b'"n": ' + n)


def just(body: bytes) -> Fields:
    """An entry of one field, `envelope`."""
    return [(b"envelope", body)]


def nested(depth: int) -> bytes:
    """Arrays in arrays."""
    return b"[" * depth + b"]" * depth


def bomb(megabytes: int) -> bytes:
    """A few bytes that become so many megabytes."""
    return gzip.compress(bytes(megabytes << 20))


#: What is wrong → the entry, and the reason of its dead letter.
CASES: dict[str, tuple[Fields, str]] = {
    "no field `envelope`": ([(b"something", b"else")], "undecodable"),
    "an empty name and value": ([(b"", b"")], "undecodable"),
    "an empty envelope": (just(b""), "undecodable"),
    "white space": (just(b" \n"), "undecodable"),
    "bytes that are no UTF-8": (just(envelope(source="x?").replace(b"?", b"\xff\xfe")), "undecodable"),
    "no UTF-8, where nobody looks": (just(envelope(other="x?").replace(b"?", b"\xc3\x28")), "undecodable"),
    "an overlong UTF-8 form": (just(envelope(source="x?").replace(b"?", b"\xc0\xaf")), "undecodable"),
    "a byte order mark": (just(b"\xef\xbb\xbf" + envelope()), "undecodable"),
    "UTF-16": (just(envelope().decode().encode("utf-16")), "undecodable"),
    "UTF-16 without a mark": (just(envelope().decode().encode("utf-16-le")), "undecodable"),
    "JSON cut short": (just(envelope()[:-5]), "undecodable"),
    "JSON and something more": (just(envelope() + b"}"), "undecodable"),
    "no JSON": (just(b"{'event_id': 'single quotes'}"), "undecodable"),
    "a NUL in JSON": (just(envelope(source="a?").replace(b"?", b"\0")), "undecodable"),
    "a newline in a text": (just(envelope(source="a?").replace(b"?", b"\n")), "undecodable"),
    **{
        f"JSON that is {text.decode()}": (just(text), "undecodable")
        for text in (b"[]", b'"text"', b"7", b"null", b"true", b"{}", b"[{}]")
    },
    **{f"brackets {depth} deep": (just(nested(depth)), "undecodable") for depth in (100, 10_000, 100_000)},
    **{
        f"brackets {depth} deep in the payload": (just(envelope_with(nested(depth))), reason)
        for depth, reason in ((100, "validation_error"), (10_000, "undecodable"), (100_000, "undecodable"))
    },
    "open brackets": (just(b"[" * 1_000_000), "undecodable"),
    "open braces": (just(b'{"a":' * 100_000), "undecodable"),
    "ten megabytes": (just(envelope(padding="x" * 10_000_000)), "undecodable"),
    "ten megabytes of brackets": (just(b"[" * 10_000_000), "undecodable"),
    "n is NaN": (just(envelope_with(b"NaN")), "undecodable"),
    "n is Infinity": (just(envelope_with(b"-Infinity")), "undecodable"),
    "n is 1e999": (just(envelope_with(b"1e999")), "validation_error"),
    "n has 5,000 digits": (just(envelope_with(b"7" * 5000)), "validation_error"),
    "n has 500,000 digits": (just(envelope_with(b"7" * 500_000)), "validation_error"),
    "n is text": (just(envelope(payload={"n": "seven"})), "validation_error"),
    "n is 1.5": (just(envelope(payload={"n": 1.5})), "validation_error"),
    "n is null": (just(envelope(payload={"n": None})), "validation_error"),
    "a lone surrogate in the payload": (just(envelope(payload={"n": -1, "kind": "\udfff"})), "undecodable"),
    "a lone surrogate where nobody looks": (just(envelope(other="\ud800\ud800")), "undecodable"),
    "no n": (just(envelope(payload={})), "validation_error"),
    **{f"no {name}": (just(envelope(**{name: _ABSENT})), "undecodable") for name in GOOD},
    **{
        f"{name} is {value!r}": (just(envelope(**{name: value})), "undecodable")
        for name in GOOD
        for value in (7, None, ["x"], "", True)
    },
    **{
        f"{name} is an object": (just(envelope(**{name: {"a": 1}})), "undecodable")
        for name in GOOD
        if name != "payload"
    },
    **{
        f"a lone surrogate in {name}": (just(envelope(**{name: "x\ud800"})), "undecodable")
        for name in ("schema_version", "event_id", "event_type", "source", "trace_id", "key")
    },
    **{
        f"{name} of 1,000 characters": (just(envelope(**{name: "x" * 1000})), "undecodable")
        for name in ("schema_version", "event_id", "event_type", "source", "trace_id")
    },
    **{
        f"{name} is {value!r}": (just(envelope(**{name: value})), "undecodable")
        for name, value in (
            ("timestamp", "yesterday"),
            ("timestamp", "2024-10-19T12:34:56.789"),
            ("timestamp", "2024-13-45T99:99:99Z"),
            ("key", 7),
            ("span_id", ["x"]),
            ("causation_id", {}),
            ("headers", "x"),
            ("headers", {"a": 1}),
            ("headers", [["a", "b"]]),
            ("payload", "text"),
        )
    },
    "an unknown content type": ([*just(envelope()), (b"content_type", b"application/x-unheard-of")], "undecodable"),
    "pickle": ([*just(b"\x80\x04N."), (b"content_type", b"application/x-python-serialize")], "undecodable"),
    "a content type of garbage": ([*just(envelope()), (b"content_type", b"\xff\0\x1b[2J")], "undecodable"),
    "an unknown content encoding": ([*just(envelope()), (b"content_encoding", b"br")], "undecodable"),
    "a content encoding of garbage": ([*just(envelope()), (b"content_encoding", b"\xff\xfe")], "undecodable"),
    "gzip that is none": ([*just(envelope()), (b"content_encoding", b"gzip")], "undecodable"),
    "gzip cut short": ([*just(gzip.compress(envelope())[:-9]), (b"content_encoding", b"gzip")], "undecodable"),
    "gzip and something more": (
        [*just(gzip.compress(envelope()) + b"x"), (b"content_encoding", b"gzip")],
        "undecodable",
    ),
    "a gzip bomb": ([*just(bomb(500)), (b"content_encoding", b"gzip")], "undecodable"),
    "a gzip bomb in gzip": ([*just(gzip.compress(bomb(500))), (b"content_encoding", b"gzip")], "undecodable"),
    "a name that is no UTF-8": ([(b"\xff\xfe", b"x")], "undecodable"),
    "a name that is no UTF-8 before a bad envelope": ([(b"\xff\0", b"\xfe"), *just(b"[")], "undecodable"),
    "envelope twice, the first one bad": ([*just(b"["), *just(envelope())], "undecodable"),
    "names like those of a dead letter": (
        [*just(b"["), (b"reason", b"none"), (b"group", b"other"), (b"dead_at", b"x"), (b"field:envelope", b"x")],
        "undecodable",
    ),
    "`only` is no UTF-8": ([*just(envelope()), (b"only", b"\xff\xfe")], "undecodable"),
    "`only` is empty": ([*just(envelope()), (b"only", b"")], "undecodable"),
    "3,000 fields": ([*just(b"["), *((b"%d" % n, b"x") for n in range(3000))], "undecodable"),
    "10,000 fields": ([*just(b"["), *((b"%d" % n, b"x") for n in range(10_000))], "undecodable"),
}

#: What looks odd and is handled all the same: the number that its handling notes.
ODD: dict[str, tuple[Fields, int]] = {
    "unknown fields": (just(envelope(other=[1], payload={"n": -2, "more": {"a": None}})), -2),
    "deep where nobody looks": (just(envelope_with(b'-3, "x": ' + nested(90))), -3),
    "1e999 where nobody looks": (just(envelope_with(b'-4, "x": 1e999')), -4),
    "a key twice: the last one counts": (just(envelope_with(b'1, "n": -5')), -5),
    "an envelope's key twice": (just(envelope_with(b"-6")[:-1] + b', "event_type": "Job"}'), -6),
    "an escaped NUL": (just(envelope(event_id="a\0b", payload={"n": -7})), -7),
    "fields beside the envelope": ([(b"\xff", b"\xfe"), (b"", b""), *just(envelope_with(b"-8")), (b"x", b"")], -8),
    "a replay of garbage": ([*just(envelope_with(b"-9")), (b"replay", b"\xff\xfe")], -9),
    "envelope twice, the first one good": ([*just(envelope_with(b"-10")), *just(b"[")], -10),
    "gzip": ([*just(gzip.compress(envelope_with(b"-11"))), (b"content_encoding", b"gzip")], -11),
    "a content type with its charset": (
        [*just(envelope_with(b"-12")), (b"content_type", b"Application/JSON; charset=utf-8")],
        -12,
    ),
}


@pytest.mark.timeout(120)
async def test_each_malformed_entry_becomes_one_dead_letter_as_it_came_and_the_next_event_is_handled_at_once(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    url = redis_server.url
    client = redis_server.client()
    worker = await start_worker(url, HANDLER)
    [pid] = await worker.child_pids()
    before = _memory(pid, "VmRSS")
    put: dict[str, str] = {}
    delays: dict[str, float] = {}

    async with App("chaos", broker=url) as app:
        for number, (name, fields) in enumerate(_entries()):
            put[name] = client.execute_command("XADD", "stream:jobs", "*", *(word for pair in fields for word in pair))
            began = time.monotonic()
            await app.publish(Job(n=number))
            await until(functools.partial(_is_handled, ledger, number), 10, every=0.002)
            delays[name] = time.monotonic() - began
    await nothing_pending(url)

    dead = await dead_letters(url, "jobs")
    by_entry = {letter.entry_id: letter for letter in dead}
    for name, (fields, reason) in CASES.items():
        letter = by_entry.get(put[name].decode())
        assert letter is not None, f"{name}: no dead letter"
        assert (letter.reason, letter.attempts, letter.deliveries) == (reason, 1, 1), f"{name}: {letter.error[:300]}"
        assert list(letter.fields) == [word for pair in fields for word in pair], f"{name}: not as it came"
        assert 0 < len(letter.error) < 2000, name
    assert len(dead) == len(by_entry) == len(CASES)
    assert {key: n for key, n in ledger.count("end").items() if int(key) < 0} == {str(n): 1 for _, n in ODD.values()}
    assert set(ledger.count("end").values()) == {1}
    assert await worker.child_pids() == [pid]
    assert [line for line in worker.logs() if line["event"] == "not json" or line["level"] == "CRITICAL"] == []
    slowest = max(delays, key=lambda name: delays[name])
    measured("malformed entries", len(CASES))
    measured(f"longest delay of the event after one, {slowest!r}", delays[slowest])
    measured("megabytes that the worker grew by at most", (_memory(pid, "VmHWM") - before) / 1024)
    assert delays[slowest] < 2
    assert _memory(pid, "VmHWM") - before < 150 * 1024


@pytest.mark.parametrize("name", [name for name in CASES if "3,000 fields" in name or "megabytes" in name])
async def test_a_dead_letter_of_any_size_can_be_replayed_and_purged(redis_server: RedisServer, name: str) -> None:
    """What is kept whole must also come back whole."""
    fields, _ = CASES[name]
    words = [word for pair in fields for word in pair]
    client = redis_server.client()
    client.execute_command("XADD", "stream:jobs", "*", *words)
    app = App("chaos", broker=redis_server.url)

    @app.on(Job)
    async def handle(job: Job) -> None: ...

    async with app.worker():
        await until(lambda: client.xlen("{stream:jobs}:dead") == 1, 10)
        [letter] = await dead_letters(redis_server.url, "jobs")
        assert app.transport.dead_letters is not None
        replayed = await app.transport.dead_letters.replay("jobs", letter.dead_id)
        await until(lambda: client.xlen("{stream:jobs}:dead") == 1, 10)
        [again] = await dead_letters(redis_server.url, "jobs")
        assert again.entry_id == replayed
        assert list(again.fields) == [b"only", b"chaos", b"replay", letter.dead_id.encode(), *words]
        assert await app.transport.dead_letters.purge("jobs", [again.dead_id]) == 1


async def test_a_dead_letter_of_more_fields_than_a_script_can_write_stays_when_it_is_replayed(
    redis_server: RedisServer,
) -> None:
    fields, _ = CASES["10,000 fields"]
    client = redis_server.client()
    client.execute_command("XADD", "stream:jobs", "*", *(word for pair in fields for word in pair))
    app = App("chaos", broker=redis_server.url)

    @app.on(Job)
    async def handle(job: Job) -> None: ...

    async with app.worker():
        await until(lambda: client.xlen("{stream:jobs}:dead") == 1, 10)
        [letter] = await dead_letters(redis_server.url, "jobs")
        assert app.transport.dead_letters is not None
        with pytest.raises(TransportError, match="more fields"):
            await app.transport.dead_letters.replay("jobs", letter.dead_id)
    [again] = await dead_letters(redis_server.url, "jobs")
    assert again == letter


async def test_many_malformed_entries_at_once_become_dead_letters_each(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger, measured: Measured
) -> None:
    """Settled in one batch: none may keep the others from being settled."""
    url = redis_server.url
    pipeline = redis_server.client().pipeline(transaction=False)
    entries = [fields for name, fields in _entries() if "megabytes" not in name]
    for fields in entries:
        pipeline.execute_command("XADD", "stream:jobs", "*", *(word for pair in fields for word in pair))
    put = pipeline.execute()

    worker = await start_worker(url, HANDLER, concurrency=200)
    began = time.monotonic()
    await until(lambda: len(ledger.lines("end")) == len(ODD), 20)
    await nothing_pending(url, within=20)

    dead = await dead_letters(url, "jobs")
    assert len(dead) == len({letter.entry_id for letter in dead}) == len(put) - len(ODD)
    assert len(worker.logs("child.started")) == 1
    measured("entries", len(put))
    measured("seconds until all was settled", time.monotonic() - began)


async def test_an_error_that_cannot_be_written_down_is_a_failure_like_any_other(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    url = redis_server.url
    kinds = ["a lone surrogate", "no text", "rejected", "later", "emits later", "backoff"]
    worker = await start_worker(url, UNTELLABLE)
    async with App("chaos", broker=url) as app:
        for number, kind in enumerate([*kinds, ""]):
            await app.publish(Job(n=number, kind=kind))
    await until(lambda: ledger.count("end") == {"5": 1, "6": 1}, 10)
    await until(lambda: sum(ledger.count("moody").values()) == len(kinds), 10)
    await nothing_pending(url)
    await nothing_pending(url, group="moody")

    dead = await dead_letters(url, "jobs")
    reasons = sorted((letter.group, letter.reason, letter.attempts) for letter in dead)
    assert reasons == [*[("chaos", "max_attempts", 1)] * 4, ("chaos", "rejected", 1), ("moody", "max_attempts", 2)]
    assert set(ledger.count("start").values()) == {1}
    assert len(worker.logs("child.started")) == 1


async def test_effects_that_the_server_refuses_wait_and_hold_up_no_other_event(
    redis_server: RedisServer, start_worker: StartWorker, ledger: Ledger
) -> None:
    """The stream that is emitted to is no stream: an operator's mistake, which ends when they mend it."""
    url = redis_server.url
    client = redis_server.client()
    client.set("stream:made", "not a stream")
    worker = await start_worker(url, REFUSED)
    async with App("chaos", broker=url) as app:
        await app.publish(Job(n=0, kind="emits"))
        await until(lambda: worker.logs("settle.failed"), 10)
        await app.publish_many([Job(n=n) for n in range(1, 100)])
        await until(lambda: len(ledger.count("end")) == 100, 10)

        async def only_that_is_pending() -> bool:
            return await pending(url, "jobs") == 1

        await until(only_that_is_pending, 10)
        client.delete("stream:made")
        await nothing_pending(url)

    assert [each["n"] for each in await emitted(url, "made")] == [0]
    assert set(ledger.count("start").values()) == {1}
    assert await dead_letters(url, "jobs") == []
    assert len(worker.logs("child.started")) == 1


def _entries() -> Iterable[tuple[str, Fields]]:
    for cases in (CASES, ODD):
        for name, (fields, _) in cases.items():
            yield name, fields


def _is_handled(ledger: Ledger, number: int) -> bool:
    return ledger.count("end")[str(number)] > 0


def _memory(pid: int, what: str) -> int:
    """Kibibytes, from /proc: VmRSS now, VmHWM the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
