"""Planted secrets are found nowhere in what streamtask says: logs, errors, tracebacks, `ps`, pages, commands, Redis."""

from __future__ import annotations

import json
import traceback
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
import redis

from streamtask import App, Event
from streamtask.errors import StreamtaskError
from streamtask.transport.connect import open_transport
from tests.chaos.conftest import one_server
from tests.chaos.workers import Ledger, WorkerProcess, until
from tests.command_line import ask, run
from tests.processes import children_of
from tests.servers import RedisServer, ServerBinary, free_port

pytestmark = one_server

#: Each is a password or token somewhere, and none may be seen anywhere.
IN_USE, IN_ENVIRONMENT, WRONG, IN_SENTINEL, IN_QUERY, UNQUOTED, AS_USER = CANARIES = [
    "kanarie:1@/#ü%41", "kanarie-2 'in\\env\"", "kanarie3?wrong&", "kanarie4<sentinel>", "kanarie5=query;",
    "kanarie6/un@quo:ted", "kanarie7-token",
]  # fmt: skip


def spellings(secret: str) -> set[bytes]:
    """How a secret may be written."""
    forms = {secret, quote(secret, safe=""), quote(secret), repr(secret)[1:-1], ascii(secret)[1:-1]}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # A part of it would do as well: what stands between the characters that end the parts of a URL.
    return {form.encode() for form in forms} | {secret.encode()[:8]}


def assert_no_secret_in(said: dict[str, bytes]) -> None:
    found = [
        (secret, place, text[max(0, text.find(form) - 80) : text.find(form) + 60])
        for place, text in said.items()
        for secret in CANARIES
        for form in spellings(secret)
        if form in text
    ]
    assert found == []


APP = """
import logging, os
logging.getLogger().setLevel(logging.DEBUG)
log = logging.getLogger("shop")


@app.on(Job, retry=Retry(1))
async def handle(job: Job, ctx: Context) -> None:
    url = app.url
    log.debug("connected to %s", url, extra={"url": url, "nested": {"urls": [url]}, "app": repr(app)})
    print("the app is", app, flush=True)
    if job.kind == "fails":
        log.error("failed", exc_info=ConnectionError(f"cannot reach {url} at all"))
        raise ConnectionError(f"cannot reach {url} at all")
    if job.kind == "dies":
        os._exit(9)
    note("end", job.n, variable=os.environ.get("STREAMTASK_WORKER_BROKER", ""))


class Isolated(Event, stream="jobs"):
    n: int


@app.on(Isolated, pool="process", retry=Retry(1))
def apart(event: Isolated) -> None:
    note("apart", event.n, commands=[open(f"/proc/{pid}/cmdline").read() for pid in ("self", os.getppid())])
    raise ConnectionError(f"cannot reach {app.url} at all")
"""


class Job(Event, stream="jobs"):
    n: int
    kind: str = ""


class Isolated(Event, stream="jobs"):
    n: int


@pytest.fixture
def server(server_binary: ServerBinary) -> Iterator[RedisServer]:
    server = RedisServer(server_binary, tcp=True)
    server.start()
    server.client().execute_command("ACL", "SETUSER", "default", "resetpass", f">{IN_USE}")
    yield server
    server.close()


def url_of(server: RedisServer, secret: str = IN_USE) -> str:
    return f"redis://:{quote(secret, safe='')}@127.0.0.1:{server.port}/0"


@pytest.fixture
async def worker(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerProcess]:
    """A worker that was told its broker on the command line."""
    monkeypatch.setenv("STREAMTASK_BROKER", f"redis://:{quote(IN_ENVIRONMENT, safe='')}@127.0.0.1:1/0")
    started = WorkerProcess(
        url_of(server), APP, tmp_path / "worker", Ledger(tmp_path / "ledger"), metrics_port=free_port()
    )
    async with started:
        yield started


async def test_no_secret_is_seen_in_anything_that_a_worker_and_the_commands_say(
    server: RedisServer, worker: WorkerProcess
) -> None:
    said: dict[str, bytes] = {}
    url, ledger = url_of(server), worker.ledger
    async with App("door", broker=url) as door:
        await door.publish(Job(n=1))
        await door.publish(Job(n=2, kind="fails"))
        await door.publish(Isolated(n=3))
        await until(lambda: ledger.lines("end") and ledger.lines("apart"), 20)
        said["processes"] = arguments_below(worker.supervisor_pid)
        [before] = await worker.child_pids()
        await door.publish(Job(n=4, kind="dies"))
        # It kills two processes, and then one that it runs in alone: it ends as a dead letter, as two others have.
        await until(lambda: len(worker.logs("event.dead")) == 3, 40)
    assert await worker.child_pids() != [before]
    await until(lambda: len(worker.logs("probes.started")) == 3, 20)
    for page in ("live", "ready", "metrics"):
        said[page] = fetched(f"http://127.0.0.1:{probes_port(worker)}/{page}")
    said |= await everything_that_commands_say(server)
    said["redis"] = everything_in(server.client(password=IN_USE))
    server.stop()
    await until(lambda: {"fetch.failed", "heartbeat.failed"} <= {line["event"] for line in worker.logs()}, 20)
    await worker.terminate()
    said["log"] = worker.log_text().encode()
    said["ledger"] = ledger.path.read_bytes()

    for place in ("log", "redis", "dead list", "processes", "metrics"):
        assert len(said[place]) > 300, f"nothing was collected of {place}"
    for word in (b"cannot reach redis://:**@127.0.0.1", b"the app is App('chaos', broker='redis://:**@"):
        assert word in said["log"]
    assert b"cannot reach redis://:**@127.0.0.1" in said["redis"]
    assert_no_secret_in(said)
    print(f"\nMEASURED secrets: bytes searched = {sum(map(len, said.values()))}, places = {len(said)}")  # noqa: T201


def arguments_below(pid: int) -> bytes:
    """What `ps` shows of a process and of those that it has started."""
    shown = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") + b"\n"
    for child in children_of(pid):
        shown += arguments_below(child)
    return shown


def probes_port(worker: WorkerProcess) -> int:
    return int(worker.logs("probes.started")[-1]["port"])


def fetched(page: str) -> bytes:
    try:
        with urllib.request.urlopen(page, timeout=5) as answer:  # noqa: S310 - http, and ours
            body: bytes = answer.read()
    except HTTPError as error:
        # Not ready yet: it says why.
        body = error.read()
    return body


async def everything_that_commands_say(server: RedisServer) -> dict[str, bytes]:
    """Every command that asks something, as a table and as JSON, and how each of the wrong URLs is refused."""
    said = {}
    questions = [
        ["inspect", what] for what in ("groups", "pending", "workers", "streams", "consumers", "scheduled")
    ] + [["dead", "list"], ["groups", "list"], ["doctor"]]
    for question in questions:
        for form in ([], ["--json"]):
            answer = await ask(url_of(server), *question, *form)
            assert answer.code == 0, answer.err
            said[" ".join(question + form)] = (answer.out + answer.err).encode()
    for letter in json.loads(said["dead list --json"]):
        shown = await ask(url_of(server), "dead", "show", letter["id"])
        said[f"dead show {letter['id']}"] = (shown.out + shown.err).encode()
    for url in wrong_urls(server):
        refused = await ask(url, "inspect", "groups")
        assert refused.code in (1, 2), refused
        said[f"refused {url}"] = (refused.out + refused.err).encode()
    return said


def wrong_urls(server: RedisServer) -> list[str]:
    """None of them works; each has a secret."""
    place = f"127.0.0.1:{server.port}"
    return [
        url_of(server, WRONG),
        f"redis://somebody:{quote(WRONG, safe='')}@{place}/0",
        f"redis://{place}/0?password={quote(IN_QUERY, safe='')}",
        f"redis://127.0.0.1:1/0?password={quote(IN_QUERY, safe='')}",
        f"rediss://127.0.0.1:1/0?ssl_password={quote(IN_QUERY, safe='')}&ssl_ca_certs=/nowhere",
        f"redis+sentinel://:{quote(IN_SENTINEL, safe='')}@127.0.0.1:1,127.0.0.1:2/main",
        f"redis+sentinel://127.0.0.1:1/main?sentinel_password={quote(IN_SENTINEL, safe='')}",
        f"rediss+sentinel://x:{quote(IN_SENTINEL, safe='')}@127.0.0.1:1",
        f"redis://:{UNQUOTED}@{place}/0",
        f"redis://:{UNQUOTED}#@{place}/0",
        f"redis://:{UNQUOTED}?@{place}/0",
        f"redis+sentinel://:{UNQUOTED}@{place}/main",
        f"rediss://:[{UNQUOTED}@{place}/0",
        f"redis://:{UNQUOTED}\u2100@{place}/0",
        f"nosuch://:{UNQUOTED}@{place}/0",
        f"redis://:{quote(IN_USE, safe='')}@{place}/0?unknown=1",
        f"nats://{AS_USER}@127.0.0.1:1",
        f"redis://{AS_USER}@127.0.0.1:1/0",
        f"unix:///nowhere/redis.sock?password={quote(IN_QUERY, safe='')}",
    ]


def everything_in(client: redis.Redis) -> bytes:
    """Every key with its value."""
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"stream": client.xrange,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"set": client.smembers,
        b"string": client.get,
    }
    lines: list[bytes] = []
    for key in client.scan_iter():
        value = readers[client.type(key)](key)
        # As they stand, and not as Python writes bytes.
        lines += [key, *words_of(value)]
    return b"\n".join(lines)


def words_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from words_of(list(value.items()))
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from words_of(each)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_worker_that_cannot_begin_says_why_without_the_secret(
    server: RedisServer, tmp_path: Path, log_format: str
) -> None:
    (tmp_path / "app.py").write_text("from streamtask import App, Event\napp = App('shop')\n")
    said = {}
    # Those at which it would wait for the broker are for the other tests.
    for url in wrong_urls(server)[9:14]:
        answer = run("worker", "-A", "app:app", "--log-format", log_format, folder=tmp_path, STREAMTASK_BROKER=url)
        assert answer.code == 2, answer.err
        assert "**@" in answer.err or "app" in answer.err
        said[url] = (answer.out + answer.err).encode()
    assert_no_secret_in(said)


async def test_no_traceback_shows_a_secret_among_its_local_variables(server: RedisServer) -> None:
    """As error trackers collect them: every frame with its variables, the frames of this file apart."""
    said: dict[str, bytes] = {}
    for url in wrong_urls(server):
        app = App("shop", broker=url)
        said[f"repr {url}"] = f"{app!r} {vars(app)!r}".encode()
        for name, attempt in {"app": app.__aenter__, "transport": lambda url=app.url: connected(url)}.items():
            with pytest.raises(StreamtaskError) as caught:
                await attempt()
            said[f"{name} {url}"] = with_locals(caught.value)
    async with App("shop", broker=url_of(server)) as app:
        server.stop()
        with pytest.raises(StreamtaskError) as caught:
            await app.publish(Job(n=1))
        said["publish"] = with_locals(caught.value)
    assert all(len(text) > 50 for text in said.values())
    assert_no_secret_in(said)


async def connected(url: str) -> None:
    await open_transport(url).connect()


def with_locals(error: BaseException) -> bytes:
    """A traceback with local variables, of every error in the chain, without the frames that are the test's own."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    link: traceback.TracebackException | None = told
    while link is not None:
        link.stack = traceback.StackSummary.from_list([frame for frame in link.stack if frame.filename != __file__])
        link = link.__cause__ or link.__context__
    return "".join(told.format()).encode()
