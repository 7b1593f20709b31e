"""Blobs on real servers: what becomes of an event whose blob is not there, and large blobs under trouble."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamtask import App, BlobMissingError, BlobStores, Context, Event, Retry, TransportError
from streamtask.blobs.pieces import PIECE
from streamtask.inspector import Inspector
from streamtask.rows import DeadLetterFilter
from tests.chaos.workers import LONG, until
from tests.servers import RedisCluster, RedisServer

#: Bytes of a large blob.
_LARGE = (60 if LONG else 24) * PIECE


class Recorded(Event, stream="recordings"):
    uri: str


def an_app(url: str, runs: Counter[str], stores: BlobStores | None = None) -> App:
    """One whose handler reads the blob of its event; a retry comes at once."""
    app = App("shop", broker=url, blobs=stores)

    @app.on(Recorded, retry=Retry(50, backoff=lambda _: 0.05))
    async def measure(event: Recorded, ctx: Context) -> None:
        runs[event.uri] += 1
        size = len(await ctx.app.blobs.get(event.uri))
        await ctx.app.records.write("sizes", {event.uri: b"%d" % size}, ttl=60.0)

    return app


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("redis:///never-stored", "BlobMissingError", "there is no blob redis:///never-stored"),
        ("file:///etc/passwd", "BlobRefusedError", "nothing was read. Allowed: redis:///..."),
        ("http://169.254.169.254/latest/", "BlobRefusedError", "in no store that this app allows"),
        ("too large", "BlobTooLargeError", "the limit of this app is 1000"),
    ],
)
async def test_an_event_whose_blob_can_never_be_read_is_one_dead_letter_that_says_so_after_one_attempt(
    redis_server: RedisServer, uri: str, error: str, said: str
) -> None:
    runs: Counter[str] = Counter()
    app = an_app(redis_server.url, runs, BlobStores(max_bytes=1000))
    async with app.worker():
        if uri == "too large":
            async with App("door", broker=redis_server.url) as door:
                uri = await door.blobs.put(bytes(1001), name="large")
        inspector = Inspector(app)
        await app.publish(Recorded(uri=uri))
        await until(inspector.count_dead, 10)
        await until(lambda: _is_settled(inspector), 10)
        [letter] = (await inspector.dead(DeadLetterFilter(), limit=10)).rows
        scheduled = await inspector.pending(limit=10)
    assert (letter.reason, letter.attempts, runs[uri]) == ("rejected", 1, 1)
    assert letter.error.startswith(f"{error}: ")
    assert said in letter.error
    assert scheduled.rows == []


async def _is_settled(inspector: Inspector) -> bool:
    return all(group.pending == 0 for group in await inspector.groups())


async def test_an_event_whose_store_is_away_is_tried_again_until_it_is_there(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    folder = tmp_path / "volume"
    runs: Counter[str] = Counter()
    app = an_app(redis_server.url, runs, BlobStores(default="file", folder=folder))
    uri = f"file://{folder}/x"
    async with app.worker():
        await app.publish(Recorded(uri=uri))
        await until(lambda: runs[uri] >= 2, 10)
        assert await Inspector(app).count_dead() == 0
        folder.mkdir()
        (folder / "x").write_bytes(b"abc")
        await until(lambda: _record(app), 10)
        assert await app.records.read("sizes") == {uri: b"3"}
        assert await Inspector(app).count_dead() == 0


async def _record(app: App) -> dict[str, bytes]:
    return await app.records.read("sizes")


async def test_a_server_that_is_away_is_no_missing_blob(private_redis: RedisServer) -> None:
    async with App("shop", broker=private_redis.url) as app:
        uri = await app.blobs.put(bytes(3 * PIECE), name="x")
        private_redis.kill()
        for call in (app.blobs.get(uri), app.blobs.put(b"abc", name="y"), app.blobs.delete(uri), app.records.read("r")):
            with pytest.raises(TransportError):
                await call
        private_redis.restart()
        assert await app.blobs.get(uri) == bytes(3 * PIECE)
        with pytest.raises(BlobMissingError):
            await app.blobs.get("redis:///y")


async def test_a_server_that_is_full_refuses_a_blob_and_keeps_nothing_of_it(private_redis: RedisServer) -> None:
    client = private_redis.client()
    async with App("shop", broker=private_redis.url) as app:
        uri = await app.blobs.put(b"before", name="x")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 4 * PIECE)
        with pytest.raises(TransportError, match="OOM"):
            await app.blobs.put(random.randbytes(20 * PIECE), name="x")
        client.config_set("maxmemory", 0)
        assert await app.blobs.get(uri) == b"before"
        assert len(client.keys("*")) == 2


async def test_a_large_blob_is_not_held_in_memory(redis_server: RedisServer) -> None:
    async def source() -> AsyncIterator[bytes]:
        for n in range(_LARGE // 65_536):
            yield bytes([n % 256]) * 65_536

    async with App("shop", broker=redis_server.url) as app:
        tracemalloc.start()
        try:
            uri = await app.blobs.put(source(), name="large")
            async with app.blobs.open(uri) as file:
                file.seek(_LARGE - 65_536)
                last = file.read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    print(f"\nMEASURED blob of {_LARGE >> 20} MiB: peak memory = {peak / PIECE:.1f} MiB")  # noqa: T201 - for the eye
    assert last == bytes([(_LARGE // 65_536 - 1) % 256]) * 65_536
    assert peak < 18 * PIECE


async def test_whoever_reads_while_others_replace_sees_whole_blobs_only(redis_server: RedisServer) -> None:
    size = 5 * PIECE + 17
    async with App("shop", broker=redis_server.url) as app:
        uri = await app.blobs.put(bytes(size), name="x")
        writers = [asyncio.create_task(_replace(app, n, size)) for n in range(1, 4)]
        reads = 0
        while not all(writer.done() for writer in writers):
            found = await app.blobs.get(uri)
            assert found == found[:1] * size
            reads += 1
        await asyncio.gather(*writers)
    print(f"\nMEASURED replaced 12 times: whole reads = {reads}")  # noqa: T201 - for the eye
    assert reads > 2


async def _replace(app: App, n: int, size: int) -> None:
    for _ in range(4):
        await app.blobs.put(bytes([n]) * size, name="x")


async def test_on_a_cluster_blobs_and_records_are_on_every_node(redis_cluster: RedisCluster) -> None:
    async with App("shop", broker=redis_cluster.url) as app:
        uris = [await app.blobs.put(b"%d" % n, name=f"sessions/{n}.wav") for n in range(30)]
        for n in range(30):
            await app.records.write(f"session:{n}", {"n": b"%d" % n}, ttl=60.0)
        assert [await app.blobs.get(uri) for uri in uris] == [b"%d" % n for n in range(30)]
        assert [await app.records.read(f"session:{n}") for n in range(30)] == [{"n": b"%d" % n} for n in range(30)]
        for uri in uris:
            await app.blobs.delete(uri)
    left = [{key.decode().split(":")[1] for key in node.client().keys("*")} for node in redis_cluster.masters]
    assert left == [{"record"}] * 3


async def test_a_reader_goes_on_from_the_entry_that_it_saw_last(redis_server: RedisServer) -> None:
    async with App("shop", broker=redis_server.url) as app:
        await app.publish_many([Recorded(uri=f"{n}") for n in range(5)])
        stream = app.read("recordings", after="0")
        seen = [await anext(stream) for _ in range(3)]
        await stream.aclose()
        again = app.read("recordings", after=seen[1].entry_id)
        rest = [await anext(again) for _ in range(3)]
        await again.aclose()
    assert [stored.payload["uri"] for stored in seen + rest] == ["0", "1", "2", "2", "3", "4"]
    assert [each.entry_id for each in rest[:1]] == [seen[2].entry_id]
