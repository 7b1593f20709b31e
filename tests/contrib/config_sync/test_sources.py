"""Sources: files, hashes and pages are read whole and written whole, and what is wrong with them is said clearly."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from streamtask_contrib.config_sync import ConfigSettings, files, router
from streamtask_contrib.config_sync.documents import MAX_BYTES, canonical, parse
from streamtask_contrib.config_sync.sources.folder import FolderSource
from streamtask_contrib.config_sync.sources.http import HttpSource
from streamtask_contrib.config_sync.sources.port import (
    ChangedError,
    MissingError,
    NotWritableError,
    Reading,
    Source,
    SourceError,
)
from streamtask_contrib.config_sync.sources.redis_hash import RedisHashSource, _fields, _reading
from streamtask_contrib.config_sync.versions import Configs, Version
from streamtask_contrib.events import ConfigRollbackRequested

from streamtask import App, ConfigurationError
from tests.chaos.conftest import one_server
from tests.chaos.workers import until
from tests.contrib.config_sync.made import VALUES
from tests.servers import RedisServer

PATIENCE = 20.0


def ours() -> bool:
    return True


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def version(content: bytes, form: str = "yaml", *, source: str = "", original: bytes | None = None) -> Version:
    """A version with these bytes."""
    return Version(
        service="whisper",
        number=1,
        checksum="",
        content=content,
        form=form,
        values=parse(content, form),
        source=source,
        taken_at=None,
        original=original,
    )


# ── a folder ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_folder_has_a_service_for_each_file_that_is_one(tmp_path: Path):
    for name in (
        "whisper.yaml",
        "nllb.toml",
        "api.json",
        "bot.yml",
        ".hidden.yaml",
        "notes.txt",
        "a b.yaml",
        "x.yaml~",
    ):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "folder.yaml").mkdir()
    source = FolderSource(tmp_path)
    found = await source.services()
    assert found == {
        name: f"file://{tmp_path}/{name}{end}"
        for name, end in (("api", ".json"), ("bot", ".yml"), ("nllb", ".toml"), ("whisper", ".yaml"))
    }
    assert source.holds(f"file://{tmp_path}/gone.yaml")
    assert not source.holds(f"file://{tmp_path}/folder/x.yaml")
    assert not source.holds("redis-hash://h:1/0#x")


async def test_two_files_of_one_service_are_unclear(tmp_path: Path):
    for name in ("whisper.yaml", "whisper.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(SourceError, match=r"whisper\.json or whisper\.yaml"):
        await FolderSource(tmp_path).read("whisper")


async def test_a_folder_or_file_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(MissingError, match="no file of whisper"):
        await FolderSource(tmp_path).read("whisper")
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        await FolderSource(tmp_path / "away").services()


async def test_a_file_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "whisper.yaml"
    path.write_bytes(b"model: sm")
    source = FolderSource(tmp_path)
    reading = asyncio.create_task(source.read("whisper"))
    for piece in (b"all\n", b"beam: ", b"5\n"):
        await asyncio.sleep(files.SETTLED / 3)
        with path.open("ab") as file:
            file.write(piece)
    assert (await reading).content == b"model: small\nbeam: 5\n"


async def test_a_file_is_replaced_whole_with_the_rights_that_it_has(tmp_path: Path):
    real = tmp_path / "elsewhere" / "real.yaml"
    real.parent.mkdir()
    real.write_bytes(b"model: a\n")
    real.chmod(0o640)
    path = tmp_path / "whisper.yaml"
    path.symlink_to(real)
    source = FolderSource(tmp_path)
    before = await source.read("whisper")
    with path.open("rb") as held:
        await source.write("whisper", version(b"model: b\r\n"), before, ours)
        # Whoever has it open goes on with the old, whole.
        assert held.read() == b"model: a\n"

    assert path.is_symlink()
    assert real.read_bytes() == b"model: b\r\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert names(real.parent) == ["real.yaml"]


async def test_a_file_that_was_changed_since_is_not_written(tmp_path: Path):
    path = tmp_path / "whisper.yaml"
    path.write_bytes(b"model: a\n")
    source = FolderSource(tmp_path)
    before = await source.read("whisper")
    path.write_bytes(b"model: c\n")
    with pytest.raises(ChangedError):
        await source.write("whisper", version(b"model: b\n"), before, ours)
    with pytest.raises(ChangedError):
        await source.write("whisper", version(b"model: b\n"), None, ours)
    assert path.read_bytes() == b"model: c\n"


async def test_what_another_worker_looks_after_is_not_written(tmp_path: Path, redis_server: RedisServer, page: Page):
    (tmp_path / "whisper.yaml").write_bytes(b"model: a\n")
    redis_server.client().hset("h", "model", "a")
    settings = ConfigSettings(pages={"whisper": page.url}, http_writable=True)
    for source in (FolderSource(tmp_path), RedisHashSource(redis_server.url, {"whisper": "h"}), HttpSource(settings)):
        before = await source.read("whisper")
        with pytest.raises(ChangedError):
            await source.write("whisper", version(b"model: b\n"), before, lambda: False)
        assert (await source.read("whisper")).digest == before.digest
        await source.close()
    assert names(tmp_path) == ["whisper.yaml"]


async def test_a_file_that_is_gone_is_made_anew_for_its_owner_alone(tmp_path: Path):
    await FolderSource(tmp_path).write("whisper", version(b"model: b\n", source="file:///x/whisper.yml"), None, ours)
    assert (tmp_path / "whisper.yml").read_bytes() == b"model: b\n"
    assert (tmp_path / "whisper.yml").stat().st_mode & 0o777 == 0o600


async def test_a_version_in_another_form_is_not_written_into_a_file(tmp_path: Path):
    (tmp_path / "whisper.yaml").write_bytes(b"model: a\n")
    source = FolderSource(tmp_path)
    with pytest.raises(NotWritableError, match=r"whisper\.yaml cannot hold a version that is TOML"):
        await source.write("whisper", version(b'model = "b"\n', "toml"), await source.read("whisper"), ours)


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, NotWritableError), (errno.ENOSPC, SourceError)])
async def test_what_will_never_be_written_is_told_from_what_may_be_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[SourceError]
):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "whisper.yaml").write_bytes(b"model: a\n")
    source = FolderSource(tmp_path)
    before = await source.read("whisper")
    monkeypatch.setattr(files, "replace", refused)
    with pytest.raises(SourceError, match=os.strerror(number)) as raised:
        await source.write("whisper", version(b"model: b\n"), before, ours)
    assert type(raised.value) is kind


def test_a_replacement_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    path = tmp_path / "whisper.yaml"
    path.write_bytes(b"model: a\n")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="full"):
        files.replace(path, b"model: b\n")
    assert path.read_bytes() == b"model: a\n"
    assert list(tmp_path.iterdir()) == [path]


# ── hashes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def hashes(redis_server: RedisServer) -> AsyncIterator[RedisHashSource]:
    source = RedisHashSource(redis_server.url, {"whisper": "config:whisper"})
    yield source
    await source.close()


FIELDS = {
    "model": "small", "quoted": '"small"', "beam": "5", "text": '"5"', "list": '[ "en",  "d\u00e9" ]', "on": "true",
    "odd": "Infinity", "half": '{"a": ', "nothing": "",
}  # fmt: skip


async def test_a_hash_is_a_document_and_goes_back_as_it_was(redis_server: RedisServer, hashes: RedisHashSource):
    client = redis_server.client(decode_responses=True)
    client.hset("config:whisper", mapping=FIELDS)
    reading = await hashes.read("whisper")
    assert reading.form == "json"
    assert parse(reading.content, "json") == {
        "model": "small", "quoted": "small", "beam": 5, "text": "5", "list": ["en", "dé"], "on": True,
        "odd": "Infinity", "half": '{"a": ', "nothing": "",
    }  # fmt: skip

    kept = version(reading.content, "json", original=reading.original)
    client.hset("config:whisper", "model", "large")
    client.hdel("config:whisper", "beam")
    other = await hashes.read("whisper")
    assert other.digest != reading.digest
    await hashes.write("whisper", kept, other, ours)
    assert client.hgetall("config:whisper") == FIELDS
    assert (await hashes.read("whisper")).digest == reading.digest


async def test_a_hash_that_was_changed_since_is_not_written(redis_server: RedisServer, hashes: RedisHashSource):
    client = redis_server.client()
    client.hset("config:whisper", "model", "small")
    before = await hashes.read("whisper")
    client.hset("config:whisper", "model", "large")
    for instead_of in (before, None):
        with pytest.raises(ChangedError):
            await hashes.write("whisper", version(b"model: b\n"), instead_of, ours)
    client.delete("config:whisper")
    with pytest.raises(MissingError, match="there is no hash config:whisper"):
        await hashes.read("whisper")
    await hashes.write("whisper", version(b"model: b\n"), None, ours)
    assert client.hgetall("config:whisper") == {b"model": b"b"}


@pytest.mark.parametrize("fields", [{"a": b"\xff"}, {"a": b"x" * MAX_BYTES}], ids=["not UTF-8", "too large"])
async def test_a_hash_that_is_no_configuration_is_said(redis_server: RedisServer, hashes: RedisHashSource, fields):
    redis_server.client().hset("config:whisper", mapping=fields)
    with pytest.raises(SourceError, match="config:whisper"):
        await hashes.read("whisper")


async def test_a_key_that_is_no_hash_and_a_server_that_is_away_are_said(redis_server: RedisServer, tmp_path: Path):
    redis_server.client().set("config:whisper", "x")
    for url in (redis_server.url, f"unix://{tmp_path}/nobody"):
        source = RedisHashSource(url, {"whisper": "config:whisper"})
        with pytest.raises(SourceError, match="cannot be read"):
            await source.read("whisper")
        await source.close()


async def test_the_place_of_a_hash_has_no_password():
    source = RedisHashSource("redis://user:hunter2@db.example.org:6380/3", {"whisper": "config:whisper"})
    assert await source.services() == {"whisper": "redis-hash://db.example.org:6380/3#config:whisper"}
    assert "hunter2" not in source.name
    await source.close()


@given(VALUES)
def test_a_version_from_elsewhere_is_the_same_as_a_hash(values: dict[str, Any]):
    fields = _fields(version(canonical(values).encode(), "json"))
    assert canonical(parse(_reading(fields).content, "json")) == canonical(values)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Page(ThreadingHTTPServer):
    """A server with one document."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.content = b"model: a\n"
        self.type = "application/yaml"
        self.status = 200
        self.version = 1
        self.has_tags = True
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://user:hunter2@127.0.0.1:{self.server_port}/whisper.yaml?token=hunter2"

    @property
    def place(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/whisper.yaml"

    def change(self, content: bytes) -> None:
        self.content = content
        self.version += 1


class _Answers(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        tag = f'"{self.server.version}"'
        self.server.headers.append(dict(self.headers))
        is_known = self.server.has_tags and self.headers.get("If-None-Match") == tag
        status = 304 if is_known and self.server.status == 200 else self.server.status
        self._answer(status, b"" if is_known else self.server.content, {"ETag": tag} if self.server.has_tags else {})

    def do_PUT(self) -> None:
        self.server.headers.append(dict(self.headers))
        content = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = self.headers.get("If-Match")
        if self.server.status != 200:
            self._answer(self.server.status, b"", {})
        elif wanted and wanted != f'"{self.server.version}"':
            self._answer(412, b"", {})
        else:
            self.server.change(content)
            self._answer(204, b"", {})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.server.answers.append(status)
        self.send_response(status)
        for name, value in {"Content-Type": self.server.type, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[Page]:
    server = Page()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def pages(page: Page) -> AsyncIterator[HttpSource]:
    source = HttpSource(ConfigSettings(pages={"whisper": page.url}, http_writable=True, http_token="hunter2"))
    yield source
    await source.close()


async def test_a_page_that_has_not_changed_is_not_sent_again(page: Page, pages: HttpSource):
    first = await pages.read("whisper")
    assert await pages.read("whisper") is first
    page.change(b"model: b\n")
    assert (await pages.read("whisper")).content == b"model: b\n"
    assert page.answers == [200, 304, 200]


async def test_the_token_is_sent_and_no_log_has_it_nor_the_address(page: Page, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    plain = f"http://127.0.0.1:{page.server_port}/x"
    for url in (page.url, plain):
        source = HttpSource(ConfigSettings(pages={"whisper": url}, http_writable=True, http_token="hunter2"))
        reading = await source.read("whisper")
        await source.write("whisper", version(b"model: b\n"), reading, ours)
        await source.close()
    # A page with a user of its own is asked as that one.
    assert [headers["Authorization"].split()[0] for headers in page.headers] == ["Basic", "Basic", "Bearer", "Bearer"]
    assert "hunter2" not in "".join(record.getMessage() for record in caplog.records if record.name == "httpx")
    assert logging.getLogger("httpx").filters == []


@pytest.mark.parametrize("address", ["hunter2", "http://u:hunter2@h:x/", "file:///hunter2", "http:///hunter2"])
def test_an_address_that_is_none_is_said(address: str):
    with pytest.raises(ConfigurationError, match="STREAMTASK_CONFIG_PAGES: the address of whisper is none") as raised:
        HttpSource(ConfigSettings(pages={"whisper": address}))
    assert "hunter2" not in str(raised.value)


async def test_a_page_is_written_only_as_it_was_read(page: Page, pages: HttpSource):
    first = await pages.read("whisper")
    page.change(b"model: c\n")
    with pytest.raises(ChangedError):
        await pages.write("whisper", version(b"model: b\n"), first, ours)
    await pages.write("whisper", version(b"model: b\n"), await pages.read("whisper"), ours)
    assert page.content == b"model: b\n"
    assert (await pages.read("whisper")).content == b"model: b\n"


@pytest.mark.parametrize(
    ("kind", "content", "form"),
    [
        ("application/json; charset=utf-8", b'{"model": "a"}', "json"),
        ("text/x-yaml", b"model: a\n", "yaml"),
        ("application/toml", b'model = "a"\n', "toml"),
        ("text/plain", b"model: a\n", "yaml"),
    ],
)
async def test_a_page_says_how_it_is_written_or_its_address_does(page: Page, pages: HttpSource, kind, content, form):
    page.type, page.content = kind, content
    reading = await pages.read("whisper")
    assert (reading.form, parse(reading.content, reading.form)) == (form, {"model": "a"})


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((404, b""), MissingError, "there is no page"),
        ((500, b"hunter2"), SourceError, "500"),
        ((302, b""), SourceError, "302"),
        ((200, b"x" * (MAX_BYTES + 1)), SourceError, "bytes"),
    ],
)
async def test_what_is_wrong_with_a_page_is_said_without_its_secrets(
    page: Page, pages: HttpSource, answer: tuple[int, bytes], kind: type[SourceError], said: str
):
    page.status, page.content = answer
    with pytest.raises(SourceError, match=said) as raised:
        await pages.read("whisper")
    assert type(raised.value) is kind
    assert page.place in str(raised.value)
    assert "hunter2" not in f"{raised.value} {pages.name} {await pages.services()}"


async def test_a_page_that_nobody_may_write_is_said(page: Page):
    source = HttpSource(ConfigSettings(pages={"whisper": page.url}))
    with pytest.raises(NotWritableError, match="STREAMTASK_CONFIG_HTTP_WRITABLE=1"):
        source.rendered(version(b"model: b\n"))
    await source.close()
    source = HttpSource(ConfigSettings(pages={"whisper": page.url}, http_writable=True))
    page.status = 405
    with pytest.raises(NotWritableError, match="405"):
        await source.write("whisper", version(b"model: b\n"), Reading(b"", "yaml"), ours)
    await source.close()


async def test_a_server_that_is_away_is_said(page: Page):
    source = HttpSource(ConfigSettings(pages={"whisper": "http://u:hunter2@127.0.0.1:1/x"}, http_timeout=2))
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:1/x cannot be had: ConnectError"):
        await source.read("whisper")
    await source.close()


# ── with a worker ─────────────────────────────────────────────────────────────────────────────────────────────────


@one_server
@pytest.mark.parametrize("kind", ["a folder", "a hash", "a page", "a page that is only read"])
async def test_versions_come_from_each_source_and_go_back_to_it(
    redis_server: RedisServer, page: Page, tmp_path: Path, kind: str
):
    client = redis_server.client(decode_responses=True)
    path = tmp_path / "whisper.yaml"

    def change(model: str) -> None:
        if kind == "a folder":
            path.write_text(f"model: {model}\n")
        elif kind == "a hash":
            client.hset("h", "model", model)
        else:
            page.change(f"model: {model}\n".encode())

    def held() -> str:
        content = path.read_bytes() if kind == "a folder" else page.content
        return client.hget("h", "model") if kind == "a hash" else parse(content, "yaml")["model"]

    settings = {
        "a folder": {"folder": tmp_path},
        "a hash": {"hashes": {"whisper": "h"}, "redis_url": redis_server.url},
        "a page": {"pages": {"whisper": page.url}, "http_writable": True, "http_every": 0.1},
        "a page that is only read": {"pages": {"whisper": page.url}, "http_every": 0.1},
    }[kind]
    change("a")
    app = App("config-sync", broker=redis_server.url)
    app.include(router(ConfigSettings(every=0.1, **settings)))
    async with app.worker():
        configs = Configs(app.records)
        await until(lambda: is_head(configs, 1, "a"), PATIENCE)
        change("b")
        await until(lambda: is_head(configs, 2, "b"), PATIENCE)
        await app.publish(ConfigRollbackRequested(request_id="r", service="whisper", to_version=1))
        await until(lambda: is_head(configs, 3, "a"), PATIENCE)
        await until(lambda: is_written_or_given_up(configs), PATIENCE)
        assert held() == ("b" if kind == "a page that is only read" else "a")
        change("c")
        await until(lambda: is_head(configs, 4, "c"), PATIENCE)
        assert await configs.troubles("whisper") == {}
    ends = [client.ttl(key) for key in client.scan_iter("streamtask:record:config-[co][of]*")]
    assert len(ends) == 5
    # As long as nobody says otherwise; not as what waits for its version.
    assert min(ends) > 365 * 86_400


async def is_head(configs: Configs, number: int, model: str) -> bool:
    head = await configs.head("whisper")
    return head is not None and (head.number, head.values["model"]) == (number, model)


async def is_written_or_given_up(configs: Configs) -> bool:
    state = await configs.state("whisper")
    return state is not None and not state.unwritten


def test_every_source_has_what_is_asked_of_it(tmp_path: Path):
    sources: list[Source] = [FolderSource(tmp_path), RedisHashSource("redis://h", {})]
    assert [source.every for source in sources] == [1.0, 1.0]
