"""The table of started entries: whatever a dead worker left in it is either right or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.worker.started import SLOT_BYTES, StartedTable, started_entries


@pytest.fixture
def table() -> Iterator[StartedTable]:
    """Four slots."""
    table = StartedTable.create(4)
    yield table
    table.close()


def test_a_new_table_is_empty(table: StartedTable) -> None:
    assert table.slots == 4
    assert table.read() == []


def test_marked_entries_are_read_with_their_subscriptions(table: StartedTable) -> None:
    table.mark(0, 0, "1700000000000-0")
    table.mark(3, 65_535, "18446744073709551615-18446744073709551615")

    assert table.read() == [(0, "1700000000000-0"), (65_535, "18446744073709551615-18446744073709551615")]


def test_a_cleared_slot_holds_nothing(table: StartedTable) -> None:
    table.mark(1, 0, "1-0")
    table.clear(1)
    table.clear(2)

    assert table.read() == []


def test_a_slot_can_be_marked_again_without_a_trace_of_the_longer_id_before(table: StartedTable) -> None:
    table.mark(1, 0, "1700000000000-12345")
    table.mark(1, 1, "2-0")

    assert table.read() == [(1, "2-0")]


@pytest.mark.parametrize("slot", [4, -5, 1_000])
def test_a_slot_outside_the_table_is_refused(table: StartedTable, slot: int) -> None:
    with pytest.raises((IndexError, ValueError)):
        table.mark(slot, 0, "1-0")


def test_an_id_that_does_not_fit_is_refused_rather_than_cut(table: StartedTable) -> None:
    table.mark(0, 0, "x" * 60)

    with pytest.raises(ValueError, match="at most 60 bytes"):
        table.mark(1, 0, "x" * 61)

    assert table.read() == [(0, "x" * 60)]


def test_a_table_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 slot"):
        StartedTable.create(0)


def test_marks_outlive_the_process_that_made_them(table: StartedTable) -> None:
    program = (
        "import os, signal, sys; from streamtask.worker.started import StartedTable; "
        "StartedTable.attach(int(sys.argv[1])).mark(2, 7, '5-1'); os.kill(os.getpid(), signal.SIGKILL)"
    )

    subprocess.run([sys.executable, "-c", program, str(table.fd)], pass_fds=(table.fd,), check=False)

    assert table.read() == [(7, "5-1")]
    assert started_entries(os.pread(table.fd, 4 * SLOT_BYTES, 0)) == [(7, "5-1")]


@given(cut=st.integers(0, SLOT_BYTES - 1), old=st.text("0123456789-", min_size=1, max_size=41))
def test_a_torn_write_is_no_entry(cut: int, old: str) -> None:
    table = StartedTable.create(1)
    try:
        table.mark(0, 1, old)
        whole = os.pread(table.fd, SLOT_BYTES, 0)
        # The marker is taken away first and comes back last: up to then any part of the rest may be new.
        table.clear(0)
        os.pwrite(table.fd, whole[1 : 1 + cut], 1)

        assert table.read() == []
    finally:
        table.close()


@given(st.binary(max_size=3 * SLOT_BYTES))
def test_reading_garbage_never_fails(raw: bytes) -> None:
    for index, entry_id in started_entries(raw):
        assert 0 <= index <= 65_535
        assert entry_id


def test_who_starts_more_at_a_time_makes_the_table_larger(table: StartedTable) -> None:
    table.mark(1, 7, "5-1")
    larger = StartedTable.attach(os.dup(table.fd), slots=100)
    try:
        assert larger.slots == 100
        larger.mark(99, 7, "5-2")
        assert larger.read() == [(7, "5-1"), (7, "5-2")]
        assert started_entries(os.pread(table.fd, 100 * SLOT_BYTES, 0)) == [(7, "5-1"), (7, "5-2")]
    finally:
        larger.close()
