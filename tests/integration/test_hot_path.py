"""What an event costs, as far as that can be told without a clock: how many functions of ours it calls.

Nearly all of a worker's time for a small event is Python's, call by call. Times are noisy; these numbers are not. Who
adds a call to the way of each event finds out here, and may raise the number once `python -m benchmarks` has said what
that costs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import one_server
from tests.servers import RedisServer

sys.path.append(str(Path(__file__).parents[2]))
costs = pytest.importorskip("benchmarks.costs")

#: A little more than there were when this was written: batches are smaller on a machine that is busy.
MOST = {"no-op": 7.5, "each emits one event": 24.0}


@one_server
async def test_an_event_calls_no_more_functions_than_it_needs(redis_server: RedisServer) -> None:
    counted = await costs.calls(redis_server.url, events=5000)

    assert counted.keys() == MOST.keys()
    assert {what: calls for what, calls in counted.items() if calls > MOST[what]} == {}
