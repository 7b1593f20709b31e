"""What the server answers to a publish, as errors of ours."""

from __future__ import annotations

import pytest

from streamtask.errors import PublishError, StoreFullError
from streamtask.transport.redis.commands import published
from streamtask.transport.redis.line import ServerError
from streamtask.transport.values import Outgoing


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "out of memory"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "cannot write to its disk"),
        ("MISCONF Redis is configured to save RDB snapshots, but ...", "cannot write to its disk"),
    ],
)
def test_a_server_that_has_no_room_is_told_from_one_that_refuses_for_other_reasons(reply: str, told: str) -> None:
    item = Outgoing(stream="orders", body=b"{}", event_id="id-1")

    refused = published(item, ServerError(reply))
    other = published(item, ServerError("NOREPLICAS Not enough good replicas to write."))

    assert isinstance(refused, StoreFullError)
    assert f"{told} and refused the event; nothing was stored ({reply})" in str(refused)
    assert refused.event_id == "id-1"
    assert type(other) is PublishError
