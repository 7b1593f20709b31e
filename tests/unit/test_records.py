"""What `app.records` takes. What engines make of it is in tests/conformance/test_storage.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamtask import App
from streamtask.records import Records


@pytest.fixture
async def records() -> AsyncIterator[Records]:
    async with App("shop", broker="memory://") as app:
        yield app.records


async def test_a_record_is_written_claimed_read_and_deleted(records: Records) -> None:
    await records.write("session:1", {"a": b"1"}, ttl=60.0)
    assert await records.claim("session:1", "a", b"2", ttl=60.0) == b"1"
    assert await records.claim("session:1", "b", b"2", ttl=60.0) == b"2"
    assert await records.read("session:1") == {"a": b"1", "b": b"2"}
    assert not await records.swap("session:1", {"a": b"3"}, expected={"b": None}, ttl=60.0)
    assert await records.swap("session:1", {"a": b"3", "c": None}, expected={"b": b"2"}, ttl=60.0)
    await records.delete("session:1", ["a"])
    assert await records.read("session:1") == {"b": b"2"}
    await records.delete("session:1")
    assert await records.read("session:1") == {}


@pytest.mark.parametrize("name", ["", "a" * 513, "a\nb", "a\x00", "a{b", "a}b", "\u202e", "\ud800"])
async def test_a_name_that_cannot_be_one_is_refused_by_every_verb(records: Records, name: str) -> None:
    calls = [
        records.read(name),
        records.write(name, {}, ttl=1.0),
        records.write("r", {name: b""}, ttl=1.0),
        records.claim(name, "a", b"", ttl=1.0),
        records.claim("r", name, b"", ttl=1.0),
        records.swap(name, {}, expected={}, ttl=1.0),
        records.swap("r", {name: b""}, expected={}, ttl=1.0),
        records.swap("r", {}, expected={name: None}, ttl=1.0),
        records.delete(name),
        records.delete("r", [name]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="1 to 512 characters") as caught:
            await call
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["a", "a" * 512, "a b:c/d", "Ü", "*"])
async def test_any_other_name_is_one(records: Records, name: str) -> None:
    await records.write(name, {name: b"1"}, ttl=60.0)
    assert await records.read(name) == {name: b"1"}


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("inf"), float("nan")])
async def test_nothing_is_kept_for_ever(records: Records, ttl: float) -> None:
    for call in (
        records.write("r", {"a": b"1"}, ttl=ttl),
        records.claim("r", "a", b"1", ttl=ttl),
        records.swap("r", {"a": b"1"}, expected={}, ttl=ttl),
    ):
        with pytest.raises(ValueError, match="seconds and above 0"):
            await call


@pytest.mark.parametrize("value", ["text", 1, None, bytearray(b"x")])
async def test_values_are_bytes(records: Records, value: Any) -> None:
    calls = [records.write("r", {"a": value}, ttl=1.0), records.claim("r", "a", value, ttl=1.0)]
    if value is not None:  # which a swap is told where there is to be no value
        calls.append(records.swap("r", {"a": value}, expected={}, ttl=1.0))
        calls.append(records.swap("r", {}, expected={"a": value}, ttl=1.0))
    for call in calls:
        with pytest.raises(TypeError, match="holds bytes"):
            await call
