"""`publish_many` that does not come to its end: it says which events are not known to be stored."""

from __future__ import annotations

import pytest

from streamtask import App, Event, StoreFullError
from tests.servers import RedisServer


class Reading(Event, stream="readings"):
    n: int
    text: str = "x" * 300


async def test_events_that_a_full_server_refused_can_be_published_again_and_none_is_doubled(
    private_redis: RedisServer,
) -> None:
    client = private_redis.client()
    async with App("meter", broker=private_redis.url) as app:
        events = [Reading(n=n) for n in range(900)]
        await app.publish(Reading(n=-1))
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)

        with pytest.raises(StoreFullError) as caught:
            await app.publish_many(events)

        client.config_set("maxmemory", 0)
        unsure = caught.value.unsure
        assert 0 < len(unsure) < 900
        assert client.xlen("stream:readings") == 1 + 900 - len(unsure)
        for place, event_id in unsure.items():
            await app.publish(events[place], event_id=event_id)

    bodies = [fields[b"envelope"] for _, fields in client.xrange("stream:readings")]
    assert sorted(app.broker.catalog.types["Reading"].model_validate_json(body.partition(b'"payload":')[2][:-1]).n
                  for body in bodies) == [-1, *range(900)]  # fmt: skip


async def test_events_that_were_sent_to_a_server_that_was_killed_are_all_unsure(private_redis: RedisServer) -> None:
    async with App("meter", broker=private_redis.url) as app:
        await app.publish(Reading(n=0))
        private_redis.kill()

        with pytest.raises(Exception, match="publish again") as caught:
            await app.publish_many([Reading(n=n) for n in range(1200)])

    assert list(caught.value.unsure) == list(range(1200))
