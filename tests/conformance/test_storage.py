"""Blobs and records: what is stored is there until its end, whole or not at all, and the first claim stands."""

from __future__ import annotations

import asyncio

import pytest

from streamtask.errors import TransportError
from streamtask.transport.port import Storage
from streamtask.transport.redis import keys
from streamtask.transport.redis.hashslots import slot_of
from streamtask.transport.values import StoredBlob
from tests.conformance.engines import Engine, RedisEngine

#: Seconds of a short life, and in which it has certainly passed.
_SHORT, _OVER = 0.2, 0.4


async def storage_of(engine: Engine) -> Storage:
    transport = await engine.transport()
    assert transport.storage is not None
    return transport.storage


async def store(storage: Storage, name: str, data: bytes, *, part: str = "p", ttl: float = 60.0) -> StoredBlob:
    """A blob, in pieces of at most three bytes."""
    assert await storage.append(name, part, b"", offset=0, ttl=60.0)
    for offset in range(0, len(data), 3):
        assert await storage.append(name, part, data[offset : offset + 3], offset=offset, ttl=60.0)
    blob = StoredBlob(part, len(data))
    assert await storage.commit(name, blob, ttl=ttl)
    return blob


async def read(storage: Storage, name: str, blob: StoredBlob) -> bytes:
    return await storage.piece(name, blob.part, offset=0, size=1000)


# ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)), b"\r\n$-1\r\n"])
async def test_a_blob_comes_back_as_it_was_stored(engine: Engine, data: bytes) -> None:
    storage = await storage_of(engine)
    blob = await store(storage, "sessions/1.wav", data)

    assert await storage.find("sessions/1.wav") == blob == StoredBlob("p", len(data))
    assert await read(storage, "sessions/1.wav", blob) == data
    assert await storage.piece("sessions/1.wav", "p", offset=1, size=2) == data[1:3]


async def test_nothing_of_a_blob_is_found_before_it_is_committed(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.append("b", "p", b"half", offset=0, ttl=60.0)

    assert await storage.find("b") is None


async def test_a_piece_at_the_wrong_place_is_refused_and_changes_nothing(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.append("b", "p", b"abc", offset=0, ttl=60.0)

    assert [await storage.append("b", "p", b"xyz", offset=at, ttl=60.0) for at in (0, 2, 4)] == [False] * 3
    assert not await storage.append("b", "other", b"xyz", offset=3, ttl=60.0)
    assert await storage.commit("b", StoredBlob("p", 3), ttl=60.0)
    assert await read(storage, "b", StoredBlob("p", 3)) == b"abc"


async def test_a_part_that_is_not_whole_is_not_committed(engine: Engine) -> None:
    storage = await storage_of(engine)
    before = await store(storage, "b", b"before")
    await storage.append("b", "new", b"abc", offset=0, ttl=60.0)

    assert not await storage.commit("b", StoredBlob("new", 4), ttl=60.0)
    assert not await storage.commit("b", StoredBlob("never", 0), ttl=60.0)
    assert await storage.find("b") == before
    assert await read(storage, "b", before) == b"before"


async def test_a_part_that_nothing_is_added_to_runs_out_and_is_not_begun_anew(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.append("b", "p", b"abc", offset=0, ttl=_SHORT)
    await engine.let_pass(_OVER)

    assert not await storage.append("b", "p", b"def", offset=3, ttl=60.0)
    assert not await storage.commit("b", StoredBlob("p", 3), ttl=60.0)


async def test_each_piece_renews_its_part(engine: Engine) -> None:
    storage = await storage_of(engine)
    for offset in range(4):
        assert await storage.append("b", "p", b"a", offset=offset, ttl=1.0)
        await engine.let_pass(0.3)
    assert await storage.commit("b", StoredBlob("p", 4), ttl=60.0)


async def test_a_blob_runs_out_and_what_has_begun_to_read_it_can_end(engine: Engine) -> None:
    storage = await storage_of(engine)
    blob = await store(storage, "b", b"abc", ttl=_SHORT)
    await engine.let_pass(_OVER)

    assert await storage.find("b") is None
    assert await read(storage, "b", blob) == b"abc"


async def test_a_blob_that_is_replaced_can_be_read_to_its_end(engine: Engine) -> None:
    storage = await storage_of(engine)
    before = await store(storage, "b", b"before", part="one")
    after = await store(storage, "b", b"after", part="two")

    assert await storage.find("b") == after
    assert [await read(storage, "b", blob) for blob in (before, after)] == [b"before", b"after"]


async def test_of_two_who_store_under_one_name_at_once_one_is_whole(engine: Engine) -> None:
    storages = [await storage_of(engine) for _ in range(2)]
    datas = [bytes([n]) * 50 for n in range(2)]
    await asyncio.gather(*(store(storages[n], "b", datas[n], part=f"p{n}") for n in range(2)))

    blob = await storages[0].find("b")
    assert blob is not None
    assert await read(storages[0], "b", blob) == datas[int(blob.part[1])]


async def test_a_removed_blob_is_gone_with_its_bytes_and_removing_it_again_does_nothing(engine: Engine) -> None:
    storage = await storage_of(engine)
    blob = await store(storage, "b", b"abc")
    other = await store(storage, "other", b"abc")

    await storage.remove("b")
    await storage.remove("b")

    assert await storage.find("b") is None
    assert await read(storage, "b", blob) == b""
    assert await read(storage, "other", other) == b"abc"


async def test_a_discarded_part_is_gone(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.append("b", "p", b"abc", offset=0, ttl=60.0)
    await storage.discard("b", "p")

    assert await storage.piece("b", "p", offset=0, size=3) == b""


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_fields_of_a_record_come_back_and_stay_beside_those_of_later_writes(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.write_record("session:1", {"a": b"1", "ü": bytes(range(256))}, ttl=60.0)
    await storage.write_record("session:1", {"a": b"2", "b": b""}, ttl=60.0)
    await storage.write_record("session:2", {"a": b"3"}, ttl=60.0)

    assert await storage.read_record("session:1") == {"a": b"2", "b": b"", "ü": bytes(range(256))}
    assert await storage.read_record("session:3") == {}


async def test_the_first_claim_stands_whoever_asks(engine: Engine) -> None:
    storages = [await storage_of(engine) for _ in range(3)]
    answers = await asyncio.gather(
        *(storages[n % 3].claim_field("uploads", "sha", b"%d" % n, ttl=60.0) for n in range(30))
    )

    assert len(set(answers)) == 1
    assert await storages[0].read_record("uploads") == {"sha": answers[0]}


async def test_a_record_runs_out_and_each_write_and_claim_renews_all_of_it(engine: Engine) -> None:
    storage = await storage_of(engine)
    for key in ("written", "claimed", "left"):
        await storage.write_record(key, {"a": b"1"}, ttl=_SHORT)
    await storage.write_record("written", {"b": b"2"}, ttl=60.0)
    assert await storage.claim_field("claimed", "a", b"2", ttl=60.0) == b"1"
    await engine.let_pass(_OVER)

    assert await storage.read_record("written") == {"a": b"1", "b": b"2"}
    assert await storage.read_record("claimed") == {"a": b"1"}
    assert await storage.read_record("left") == {}
    assert await storage.claim_field("left", "a", b"2", ttl=60.0) == b"2"


async def test_a_swap_changes_fields_where_all_stand_as_expected(engine: Engine) -> None:
    storage = await storage_of(engine)
    anything = bytes(range(256))

    assert await storage.swap_fields("r", {"a": b"1", "ü": anything}, expected={"a": None, "b": None}, ttl=60.0)
    assert await storage.swap_fields("r", {"a": None, "b": b""}, expected={"a": b"1", "ü": anything}, ttl=60.0)
    assert await storage.read_record("r") == {"b": b"", "ü": anything}
    assert await storage.swap_fields("r", {"c": b"3"}, expected={}, ttl=60.0)
    assert await storage.swap_fields("r", {"b": None, "c": None, "ü": None}, expected={"b": b""}, ttl=60.0)
    assert await storage.read_record("r") == {}


@pytest.mark.parametrize(
    "expected", [{"a": None}, {"a": b"2"}, {"b": b""}, {"b": b"1"}, {"a": b"1", "b": b"1"}, {"a": b"1", "empty": None}]
)
async def test_a_swap_does_nothing_where_one_field_is_not_as_expected(
    engine: Engine, expected: dict[str, bytes | None]
) -> None:
    storage = await storage_of(engine)
    await storage.write_record("r", {"a": b"1", "empty": b""}, ttl=60.0)

    assert not await storage.swap_fields("r", {"a": b"9", "empty": None, "c": b"9"}, expected=expected, ttl=60.0)
    assert await storage.read_record("r") == {"a": b"1", "empty": b""}


async def test_of_many_who_swap_what_they_have_read_each_step_has_one_who_did_it(engine: Engine) -> None:
    storages = [await storage_of(engine) for _ in range(3)]

    async def count(storage: Storage) -> None:
        for _ in range(10):
            while True:
                stands = (await storage.read_record("r")).get("n")
                more = b"%d" % (int(stands or b"0") + 1)
                if await storage.swap_fields("r", {"n": more}, expected={"n": stands}, ttl=60.0):
                    break

    await asyncio.gather(*(count(storage) for storage in storages))
    assert await storages[0].read_record("r") == {"n": b"30"}


async def test_a_swap_renews_a_record_and_one_that_fails_does_not(engine: Engine) -> None:
    storage = await storage_of(engine)
    for key in ("swapped", "refused"):
        await storage.write_record(key, {"owner": b"1"}, ttl=_SHORT)
    assert await storage.swap_fields("swapped", {"owner": b"1"}, expected={"owner": b"1"}, ttl=60.0)
    assert not await storage.swap_fields("refused", {"owner": b"2"}, expected={"owner": None}, ttl=60.0)
    await engine.let_pass(_OVER)

    assert await storage.read_record("swapped") == {"owner": b"1"}
    assert await storage.read_record("refused") == {}
    assert await storage.swap_fields("refused", {"owner": b"2"}, expected={"owner": None}, ttl=60.0)


async def test_fields_are_removed_one_by_one_or_all_together(engine: Engine) -> None:
    storage = await storage_of(engine)
    await storage.write_record("r", {"a": b"1", "b": b"2", "c": b"3"}, ttl=60.0)

    await storage.delete_record("r", ["a", "never"])
    assert await storage.read_record("r") == {"b": b"2", "c": b"3"}
    await storage.delete_record("r", [])
    await storage.delete_record("r", [])
    assert await storage.read_record("r") == {}


async def test_a_record_of_thousands_of_fields_is_written_at_once(engine: Engine) -> None:
    storage = await storage_of(engine)
    fields = {f"{n:05}": b"x" for n in range(9000)}
    await storage.write_record("r", fields, ttl=60.0)

    assert await storage.read_record("r") == fields


# ── on a real server ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_key_has_an_end_from_the_start(redis_engine: RedisEngine) -> None:
    storage = await storage_of(redis_engine)
    await store(storage, "b", b"abc", part="one", ttl=100.0)
    await store(storage, "b", b"abc", part="two", ttl=100.0)
    await storage.append("b", "unfinished", b"abc", offset=0, ttl=100.0)
    await storage.write_record("r", {"a": b"1"}, ttl=100.0)
    await storage.claim_field("c", "a", b"1", ttl=100.0)
    await storage.swap_fields("s", {"a": b"1"}, expected={"a": None}, ttl=100.0)

    client = redis_engine.client
    ends = {key.decode(): round(client.pttl(key) / 1000) for key in client.keys("*")}
    assert ends == {
        "streamtask:blob:b": 100,
        "{streamtask:blob:b}:one": 60,
        "{streamtask:blob:b}:two": 160,
        "{streamtask:blob:b}:unfinished": 100,
        "streamtask:record:r": 100,
        "streamtask:record:c": 100,
        "streamtask:record:s": 100,
    }


async def test_what_somebody_else_has_put_under_a_blobs_name_is_an_error(redis_engine: RedisEngine) -> None:
    storage = await storage_of(redis_engine)
    redis_engine.client.set(keys.blob("b"), b"\xff\x00 somebody else's")

    with pytest.raises(TransportError, match="streamtask:blob:b holds something that streamtask has not written"):
        await storage.find("b")
    await storage.remove("b")
    assert await storage.find("b") is None


async def test_blobs_are_carried_on_a_connection_of_their_own(redis_engine: RedisEngine) -> None:
    """What is short, leases above all, does not wait behind them."""
    transport = await redis_engine.transport()
    assert transport.storage is not None
    before = len(redis_engine.client.client_list())
    await transport.storage.append("b", "p", b"abc", offset=0, ttl=60.0)

    assert len(redis_engine.client.client_list()) == before + 1


def test_on_a_cluster_a_blob_and_its_parts_are_of_one_slot_and_others_of_others() -> None:
    names = [f"sessions/{n}.wav" for n in range(50)]
    assert all(slot_of(keys.blob(name)) == slot_of(keys.blob_parts(name) + "part") for name in names)
    assert len({slot_of(keys.blob(name)) for name in names}) > 40
    assert len({slot_of(keys.record(name)) for name in names}) > 40
