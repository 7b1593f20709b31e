"""What `streamtask worker` refuses before it starts anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from streamtask.cli import worker
from streamtask.cli.main import streamtask


@pytest.mark.parametrize("limit", ["0", "-1", "a lot", "1.5"])
def test_a_limit_of_memory_that_is_none_is_refused(limit: str) -> None:
    result = CliRunner().invoke(streamtask, ["worker", "-A", "shop:app", "--max-memory", limit])

    assert result.exit_code == 2
    assert "--max-memory" in result.stderr


def test_a_limit_of_memory_is_refused_where_the_system_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "resident_mib", lambda pid: 0.0)

    result = CliRunner().invoke(streamtask, ["worker", "-A", "shop:app", "--max-memory", "500"])

    assert result.exit_code == 2
    assert "--max-memory needs /proc/PID/statm" in result.stderr
