"""`app.blobs` from outside: every store by its URIs, and only those that the app allows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamtask import (
    App,
    BlobMissingError,
    BlobRefusedError,
    BlobStores,
    BlobTooLargeError,
    ConfigurationError,
    Reject,
)
from streamtask.errors import BlobError


def app_with(**settings: Any) -> App:
    return App("shop", broker="memory://", blobs=BlobStores(**settings))


@pytest.fixture(params=["redis", "file", "memory://bucket/prefix"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[App]:
    if request.param.startswith("memory"):
        pytest.importorskip("fsspec", reason="the extra `blobs`")
    made = app_with(default=request.param, folder=tmp_path, remote=("memory://bucket/prefix",), max_bytes=1000)
    async with made:
        yield made


async def source(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


@pytest.mark.parametrize("data", [b"", b"abc", bytes(1000)])
async def test_what_is_put_can_be_got_opened_and_deleted(app: App, data: bytes) -> None:
    for given in (data, bytearray(data), source(data[:1], data[1:])):
        uri = await app.blobs.put(given, name="sessions/1.wav")  # type: ignore[arg-type] # a bytearray is good, too
        assert await app.blobs.get(uri) == data
        async with app.blobs.open(uri) as file:
            assert file.seek(0, 2) == len(data)
            file.seek(0)
            assert file.read(10) == data[:10]
    await app.blobs.delete(uri)
    await app.blobs.delete(uri)
    with pytest.raises(BlobMissingError):
        await app.blobs.get(uri)


async def test_a_blob_of_the_same_name_is_replaced(app: App) -> None:
    first = await app.blobs.put(b"before", name="x")
    assert await app.blobs.put(b"after", name="x") == first
    assert await app.blobs.get(first) == b"after"


async def test_a_blob_over_the_limit_is_refused_and_leaves_what_stood_there(app: App) -> None:
    uri = await app.blobs.put(b"before", name="x")
    for data in (bytes(1001), source(bytes(600), bytes(600))):
        with pytest.raises(BlobTooLargeError, match="max_bytes"):
            await app.blobs.put(data, name="x")
    assert await app.blobs.get(uri) == b"before"


async def test_a_name_from_outside_stays_within_the_store(app: App, tmp_path: Path) -> None:
    names = ["../x", "..\\x", "/etc/passwd", ".x", "a b", "%2e%2e/x"]
    uris = {await app.blobs.put(b"abc", name=name) for name in names}
    assert len(uris) == len(names)
    for uri in uris:
        assert await app.blobs.get(uri) == b"abc"
    assert [path.name for path in tmp_path.parent.iterdir() if path.name == "x"] == []


async def test_uris_are_what_the_stores_say(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="the extra `blobs`")
    for default, uri in (
        ("redis", "redis:///a/x"),
        ("file", f"file://{tmp_path}/a/x"),
        ("memory://bucket/prefix/", "memory://bucket/prefix/a/x"),
    ):
        async with app_with(default=default, folder=tmp_path, remote=("memory://bucket/prefix/",)) as app:
            assert await app.blobs.put(b"abc", name="a/x") == uri


async def test_a_prefix_or_folder_without_a_slash_allows_nothing_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="the extra `blobs`")
    async with app_with(default="memory://bucket/prefix", folder=tmp_path, remote=("memory://bucket/prefix",)) as app:
        assert await app.blobs.put(b"abc", name="x") == "memory://bucket/prefix/x"
        for uri in ("memory://bucket/prefix-evil/x", "memory://bucket/prefixx", f"file://{tmp_path}-evil/x"):
            with pytest.raises(BlobRefusedError):
                await app.blobs.get(uri)


async def test_files_and_remote_stores_need_no_broker(tmp_path: Path) -> None:
    app = app_with(default="file", folder=tmp_path)
    uri = await app.blobs.put(b"abc", name="x")
    assert await app.blobs.get(uri) == b"abc"
    with pytest.raises(ConfigurationError, match="not connected"):
        await app.blobs.get("redis:///x")


async def test_a_uri_of_no_store_of_the_app_is_refused_by_every_verb(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"secret")
    async with app_with() as app:
        for uri in (f"file://{tmp_path}/x", "memory://bucket/x", "http://169.254.169.254/", "redis://other/x"):
            for call in (app.blobs.get(uri), app.blobs.delete(uri)):
                with pytest.raises(BlobRefusedError, match="nothing was read"):
                    await call
    assert (tmp_path / "x").exists()


async def test_blobs_of_the_broker_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []
    async with app_with(ttl=7.0) as app:
        storage = app.transport.storage
        assert storage is not None
        real = storage.commit

        async def commit(*args: Any, ttl: float) -> bool:
            kept.append(ttl)
            return await real(*args, ttl=ttl)

        monkeypatch.setattr(storage, "commit", commit)
        await app.blobs.put(b"abc", name="x")
        await app.blobs.put(b"abc", name="x", ttl=9.0)
        for ttl in (0.0, -1.0, float("inf"), float("nan")):
            with pytest.raises(ConfigurationError, match="seconds and above 0"):
                await app.blobs.put(b"abc", name="x", ttl=ttl)
    assert kept == [7.0, 9.0]


async def test_an_engine_without_storage_says_so() -> None:
    async with app_with() as app:
        app.transport.storage = None
        with pytest.raises(ConfigurationError, match="memory keeps no blobs and no records"):
            await app.blobs.get("redis:///x")
        with pytest.raises(ConfigurationError, match="memory keeps no blobs and no records"):
            await app.records.read("x")


def test_inline_bytes_are_for_those_who_say_so() -> None:
    assert not app_with().blobs.is_inline_allowed
    assert app_with(inline=True).blobs.is_inline_allowed


def test_an_error_of_a_blob_is_a_reject() -> None:
    assert issubclass(BlobError, Reject)
    assert {error.__base__ for error in (BlobMissingError, BlobRefusedError, BlobTooLargeError)} == {BlobError}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"default": "file"}, "no `folder` is given"),
        ({"default": "s3://bucket/"}, "one of `remote`"),
        ({"default": "somewhere"}, "one of `remote`"),
        ({"default": "s3://bucket", "remote": ("s3://bucket/",)}, "one of `remote`"),
        ({"max_bytes": 0}, "at least 1"),
        ({"ttl": 0.0}, "above 0"),
        ({"ttl": float("inf")}, "above 0"),
        ({"folder": "/srv/a%20b"}, "percent-encoded"),
        ({"folder": "/srv/a?b"}, "query"),
        ({"folder": "/srv/../etc"}, r"step `\.\.`"),
        ({"remote": ("bucket/prefix",)}, "no URI"),
        ({"remote": ("s3://",)}, "no URI"),
        ({"remote": ("s3:///",)}, "no URI"),
        ({"remote": ("redis:///x",)}, "always allowed"),
        ({"remote": ("file:///srv",)}, "give `folder`"),
        ({"remote": ("local:///srv",)}, "give `folder`"),
        ({"remote": ("http://internal/x",)}, "a web server may send"),
        ({"remote": ("HTTPS://files/x",)}, "a web server may send"),
        ({"remote": ("simplecache::s3://bucket/",)}, "chain"),
        ({"remote": ("s3://key:hunter2@bucket/",)}, "credentials"),
        ({"remote": ("s3://bucket/?versionId=1",)}, "query"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_their_secrets(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        BlobStores(**settings)
    assert "hunter2" not in str(caught.value)


def test_fsspec_is_loaded_by_who_uses_it_only() -> None:
    app = "App('a', blobs=BlobStores(remote=('s3://b/',)))"
    code = f"import sys; from streamtask import App, BlobStores; {app}.blobs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "streamtask.blobs.remote" in loaded
    assert "fsspec" not in loaded
