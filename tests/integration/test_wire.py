"""A connection on a slow network: what moves is waited for, what has stopped is given up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from streamtask.transport.redis.addresses import dial_of
from streamtask.transport.redis.client import Wire
from streamtask.transport.redis.line import DisconnectedError
from tests.proxy import Proxy
from tests.servers import RedisServer

#: Seconds that a reply may take on a network that carries nothing.
_TIMEOUT = 0.5
#: The same where bytes keep coming: longer than this machine stands still.
_STALLED = 1.5


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(redis_server.socket, random.Random(1)) as proxy:
        yield proxy


@pytest.fixture
async def wire(proxy: Proxy) -> AsyncIterator[Wire]:
    wire = Wire(dial_of(proxy.url))
    assert await wire.call("PING") == b"PONG"
    yield wire
    await wire.close()
    await asyncio.sleep(0)


async def test_a_reply_that_is_under_way_is_waited_for(redis_server: RedisServer, proxy: Proxy, wire: Wire) -> None:
    redis_server.client().set("large", b"x" * 75_000)
    proxy.bandwidth = 20_000

    began = time.monotonic()
    assert await wire.call("GET", "large", timeout=_STALLED) == b"x" * 75_000
    assert time.monotonic() - began > 2 * _STALLED


async def test_a_request_that_is_under_way_is_waited_for(redis_server: RedisServer, proxy: Proxy, wire: Wire) -> None:
    # More than the buffers of the sockets take.
    large = b"x" * 16_000_000
    proxy.bandwidth = 4_000_000

    began = time.monotonic()
    assert await wire.call("SET", "large", large, timeout=_STALLED) == b"OK"
    assert time.monotonic() - began > 2 * _STALLED
    assert redis_server.client().get("large") == large


@pytest.mark.parametrize("size", [1, 16_000_000], ids=["small", "large"])
async def test_what_has_stopped_is_given_up_and_the_wire_connects_anew(proxy: Proxy, wire: Wire, size: int) -> None:
    # The time of an earlier question, which may be long, is not this one's.
    assert await wire.call("PING", timeout=60.0) == b"PONG"
    proxy.fall_silent()
    began = time.monotonic()
    with pytest.raises(DisconnectedError, match="no reply in time"):
        await wire.call("SET", "some", b"x" * size, timeout=_TIMEOUT)
    assert time.monotonic() - began < 4.5

    proxy.heal()
    assert await wire.call("PING") == b"PONG"


async def test_what_is_asked_when_the_connection_has_just_broken_goes_over_a_new_one(
    redis_server: RedisServer, proxy: Proxy, wire: Wire
) -> None:
    """The loop tells it in its next turn; whoever asks before that would learn that it is unknown whether it ran."""
    line = wire._line
    assert line is not None
    line._transport.close()
    assert not line.is_over

    assert await wire.call("SET", "some", "1") == b"OK"
    assert wire.generation == 2
    assert redis_server.client().get("some") == b"1"
