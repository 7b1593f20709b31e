"""Which slot a key belongs to, and that all keys of a stream belong to one."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.transport.redis import keys
from streamtask.transport.redis.hashslots import slot_of, slot_of_command

#: Names as `Event` takes them.
NAMES = st.text("abcXYZ019._:-", min_size=1, max_size=20)
#: Every function that names a key of a stream, or several.
OF_A_STREAM = [
    function
    for _, function in inspect.getmembers(keys, inspect.isfunction)
    if next(iter(inspect.signature(function).parameters), "") == "name"
]


@pytest.mark.parametrize(
    ("key", "slot"),
    # As CLUSTER KEYSLOT answers; tests/integration/test_cluster.py asks it for many more.
    [("123456789", 12739), ("stream:audio-ingest", 6747), ("{stream:audio-ingest}:retry:g", 6747), ("", 0)],
)
def test_the_slot_of_a_key_is_that_of_redis(key: str, slot: int) -> None:
    assert slot_of(key) == slot_of(key.encode()) == slot


def test_only_what_stands_in_the_first_braces_counts_if_anything_does() -> None:
    assert slot_of("a{tag}b{other}") == slot_of("tag")
    assert slot_of("{}a") != slot_of("a")
    assert slot_of("{a") != slot_of("a")


@given(NAMES, st.text("ab{}:", max_size=5))
def test_all_keys_of_a_stream_share_its_slot(name: str, other: str) -> None:
    assert len(OF_A_STREAM) > 12
    for function in OF_A_STREAM:
        rest = [other] * (len(inspect.signature(function).parameters) - 1)
        named = function(name, *rest)
        for key in [named] if isinstance(named, str) else named:
            assert slot_of(key) == slot_of(keys.stream(name)), function


def test_the_keys_that_are_not_a_streams_share_a_slot() -> None:
    assert len({slot_of(key) for key in (keys.STREAMS, keys.WORKERS, keys.beat("a"), keys.beat("b"))}) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["XADD", "key", "*", "f", "v"],
        ["EVALSHA", "sha", 2, "key", "{key}:other", "argument"],
        ["XINFO", "STREAM", "key"],
        ["XREADGROUP", "GROUP", "g", "a", "COUNT", 1, "STREAMS", "key", "{key}:other", ">", ">"],
        ["XREAD", "BLOCK", 1, "STREAMS", b"key", "$"],
    ],
)
def test_the_slot_of_a_command_is_that_of_its_first_key(command: list[str | bytes | int]) -> None:
    assert slot_of_command(command) == slot_of("key")


def test_what_any_node_answers_has_no_slot() -> None:
    assert slot_of_command(["TIME"]) is None
