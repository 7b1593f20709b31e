"""The questions of the command line, on a real server: their words, their fields, and that they change nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from streamtask.envelope import tick_id
from streamtask.errors import TransportError
from streamtask.transport.values import Dead, Done, Outgoing, Progress, Retry, RuleText, Skip, Wait
from tests.command_line import ask
from tests.conformance.engines import Consumer, RedisEngine
from tests.servers import RedisServer

PENDING = (
    "stream", "group", "entry_id", "event_id", "event_type", "consumer", "idle_ms", "deliveries", "state", "due_in_ms",
    "progress",
)  # fmt: skip
GROUPS = ("stream", "group", "consumers", "pending", "lag", "lag_seconds", "oldest_pending_ms", "dead")
WORKERS = ("worker", "host", "pid", "supervisor_pid", "groups", "running", "last_beat_ms")
DEAD = (
    "id", "stream", "group", "event_id", "event_type", "reason", "error", "attempts", "first_seen", "dead_at",
)  # fmt: skip
#: A payload, an error and a name that would drive a terminal.
NASTY = "\x1b[2J\x9b31m\r\nowned"


def placed(event_id: str, text: str = "", **options: Any) -> Outgoing:
    """A whole OrderPlaced."""
    envelope = {
        "schema_version": "v1",
        "event_id": event_id,
        "event_type": "OrderPlaced",
        "source": "test",
        "timestamp": "2024-10-19T12:34:56.789Z",
        "trace_id": "0" * 32,
        "payload": {"text": text},
    }
    return Outgoing(stream="orders", body=json.dumps(envelope).encode(), event_id=event_id, **options)


@pytest.fixture
async def engine(redis_server: RedisServer) -> AsyncIterator[RedisEngine]:
    """A server to put things on."""
    made = RedisEngine(redis_server)
    yield made
    await made.close()


@pytest.fixture
async def busy(engine: RedisEngine) -> Consumer:
    """A server with something of everything on it."""
    consumer = await engine.consumer("a")
    await consumer.recovery.beat("a", b'{"host": "h", "pid": 7, "groups": ["shipping"], "running": 1}', ttl=600)
    names = ("running", "retrying", "waiting", "rejected", "undecodable", "skipped", "done")
    _, retrying, waiting, rejected, undecodable, skipped, done = await consumer.publish_and_fetch(
        *(placed(name, NASTY) for name in names)
    )
    await consumer.settle(retrying, Retry(delay=600, error=NASTY))
    await consumer.settle(waiting, Wait("OrderPlaced", "v1", timeout=600))
    dead = Dead(reason="rejected", error=NASTY, traceback=NASTY, event_id="rejected", event_type="OrderPlaced")
    await consumer.settle(rejected, dead)
    undecodable.fields = [b"envelope", b"\xff\x1b[2J"]
    await consumer.settle(undecodable, Dead(reason="undecodable", error="not JSON"))
    await consumer.settle(skipped, Skip(event_type="OrderLost"))
    await consumer.settle(done, Done())
    await consumer.publish(placed("later", delay=600), placed("unread"))
    return consumer


# ── words and fields ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_fields_of_every_list_are_those_of_the_contract(redis_server: RedisServer, busy: Consumer) -> None:
    for words, fields in (
        ("inspect pending", PENDING),
        ("inspect groups", GROUPS),
        ("inspect workers", WORKERS),
        ("dead list", DEAD),
        (
            "inspect streams",
            ("stream", "length", "groups", "dead", "scheduled", "outbox", "first_id", "last_id", "bytes"),
        ),
        ("inspect consumers", ("stream", "group", "consumer", "pending", "idle_ms", "alive")),
        ("inspect scheduled", ("stream", "event_id", "event_type", "due_in_ms", "rule")),
        ("groups list", ("stream", "group", "interest", "skipped", "alive", "last_seen_ms")),
        ("doctor", ("level", "check", "message", "remedy")),
    ):
        said = await ask(redis_server.url, *words.split(), "--json")

        assert isinstance(said.document, list)
        assert said.document, words
        assert all(tuple(row) == fields for row in said.document), words


async def test_pending_says_what_becomes_of_each_entry(redis_server: RedisServer, busy: Consumer) -> None:
    rows = (await ask(redis_server.url, "inspect", "pending", "--json")).document

    assert [(row["event_id"], row["state"], row["due_in_ms"] is None) for row in rows] == [
        ("running", "running", True),
        ("retrying", "retrying", False),
        ("waiting", "retrying", True),
    ]
    assert {row["event_type"] for row in rows} == {"OrderPlaced"}


async def test_how_far_a_handler_is_stands_with_its_entry_and_its_event(
    redis_server: RedisServer, busy: Consumer
) -> None:
    unread, delivery = await busy.publish_and_fetch(placed("spoken"))
    await busy.settle(unread, Done())
    await busy.transport.checkpoints.report([(delivery, "e1", Progress(0.421, NASTY))])

    rows = (await ask(redis_server.url, "inspect", "pending", "--json")).document
    [place] = (await ask(redis_server.url, "inspect", "event", "spoken", "--json")).document["groups"]
    table = (await ask(redis_server.url, "inspect", "pending")).out

    said = {"fraction": 0.421, "message": NASTY}
    assert [row["progress"] for row in rows] == [None, None, None, said]
    assert place["progress"] == said
    assert r"42% \x1b[2J\x9b31m\r\nowned" in table


async def test_a_rule_stands_among_what_is_scheduled_with_its_next_event(
    redis_server: RedisServer, engine: RedisEngine
) -> None:
    schedule = (await engine.consumer()).schedule
    rules = [RuleText("orders", "shop.tidy", "every 3600"), RuleText("orders", "shop.odd", "when it rains")]
    [standing, _] = await schedule.stand(rules, new=True)
    at = (standing.now_ms // 3_600_000 + 1) * 3_600_000

    [row] = (await ask(redis_server.url, "inspect", "scheduled", "--json")).document

    assert 0 <= at - standing.now_ms - row.pop("due_in_ms") < 5000
    assert row == {
        "stream": "orders",
        "event_id": tick_id("orders", "shop.tidy", at),
        "event_type": "shop.tidy",
        "rule": "every 3600",
    }
    engine.client.hset("{stream:orders}:cron", "shop.tidy\tseen", standing.now_ms - 25 * 3_600_000)
    assert (await ask(redis_server.url, "inspect", "scheduled", "--json")).document == []


async def test_what_is_scheduled_is_moved_and_cancelled(redis_server: RedisServer, busy: Consumer) -> None:
    move = ("scheduled", "move", "orders", "later")
    cancel = ("scheduled", "cancel", "orders", "later")
    moved = await ask(redis_server.url, "scheduled", "move", "stream:orders", "later", "--delay", "30")
    [row] = (await ask(redis_server.url, "inspect", "scheduled", "--json")).document
    again = await ask(redis_server.url, *move, "--at", "2999-01-01T00:00:00+01:00", "--json")
    [far] = (await ask(redis_server.url, "inspect", "scheduled", "--json")).document
    cancelled = await ask(redis_server.url, *cancel, "--json")

    assert (moved.code, moved.out) == (0, "Moved event later of stream orders: it comes in 30 s.\n")
    assert 20_000 < row["due_in_ms"] <= 30_000
    assert far["due_in_ms"] > 10**12
    assert again.document == cancelled.document == {"stream": "orders", "event_id": "later"}
    assert (await ask(redis_server.url, "inspect", "scheduled", "--json")).document == []
    assert (await ask(redis_server.url, *cancel)).code == 1


async def test_dead_letters_tell_their_moments_in_utc(redis_server: RedisServer, busy: Consumer) -> None:
    rejected, undecodable = (await ask(redis_server.url, "dead", "list", "--json")).document

    assert rejected["id"] == f"orders/shipping/{rejected['id'].rpartition('/')[2]}"
    assert (rejected["reason"], rejected["error"], rejected["event_id"]) == ("rejected", NASTY, "rejected")
    assert (undecodable["event_id"], undecodable["event_type"]) == (None, None)
    for moment in (rejected["first_seen"], rejected["dead_at"]):
        assert moment.endswith("Z")
        assert moment[10] == "T"


async def test_a_dead_letter_is_shown_whole(redis_server: RedisServer, busy: Consumer) -> None:
    rejected, undecodable = (await ask(redis_server.url, "dead", "list", "--json")).document

    shown = (await ask(redis_server.url, "dead", "show", rejected["id"], "--json")).document
    raw = (await ask(redis_server.url, "dead", "show", f"stream:{undecodable['id']}", "--json")).document

    assert tuple(shown)[: len(DEAD)] == DEAD
    assert shown["envelope"]["payload"] == {"text": NASTY}
    assert (shown["traceback"], shown["deliveries"], shown["worker"]) == (NASTY, 1, "a")
    assert raw["envelope"] is None
    assert raw["fields"] == {"envelope": "\\xff\x1b[2J"}


async def test_an_event_is_shown_whole(redis_server: RedisServer, busy: Consumer) -> None:
    shown = (await ask(redis_server.url, "inspect", "event", "retrying", "--json")).document
    by_entry = (
        await ask(redis_server.url, "inspect", "event", f"stream:orders/{shown['entry_id']}", "--json")
    ).document

    assert shown["envelope"]["payload"] == {"text": NASTY}
    [standing] = shown["groups"]
    assert (standing["group"], standing["state"], standing["attempts"]) == ("shipping", "retrying", 1)
    assert standing["error"] == NASTY
    assert by_entry["event_id"] == "retrying"
    assert (await ask(redis_server.url, "inspect", "event", "later", "--json")).document["due_in_ms"] > 500_000


async def test_filters_name_streams_with_and_without_their_prefix(redis_server: RedisServer, busy: Consumer) -> None:
    for stream in ("orders", "stream:orders"):
        for command in ("inspect pending", "inspect groups", "inspect streams", "dead list", "groups list"):
            said = await ask(redis_server.url, *command.split(), "--stream", stream, "--json")

            assert said.document, (command, stream)


async def test_what_is_empty_is_an_empty_list(redis_server: RedisServer) -> None:
    for command in ("inspect pending", "inspect groups", "inspect streams", "inspect consumers", "inspect scheduled",
                    "inspect workers", "dead list", "groups list"):  # fmt: skip
        said = await ask(redis_server.url, *command.split(), "--json")
        table = await ask(redis_server.url, *command.split())

        assert (said.document, said.err) == ([], "")
        assert (table.code, table.out, table.err.count("\n")) == (0, "", 1)


async def test_a_list_that_was_cut_says_so_beside_the_document(redis_server: RedisServer, busy: Consumer) -> None:
    said = await ask(redis_server.url, "inspect", "pending", "--limit", "2", "--json")

    assert len(said.document) == 2
    assert "Only 2 of 3 are shown: --limit" in said.err


async def test_many_pending_entries_are_listed_in_pages(redis_server: RedisServer, engine: RedisEngine) -> None:
    consumer = await engine.consumer()
    for _ in range(20):
        await consumer.publish(*(placed(str(uuid.uuid4())) for _ in range(500)))
    await consumer.fetch(10_000)

    assert len((await ask(redis_server.url, "inspect", "pending", "--json")).document) == 1000
    rows = (await ask(redis_server.url, "inspect", "pending", "--limit", "20000", "--json")).document

    assert len({row["event_id"] for row in rows}) == 10_000


# ── harmless ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_questions_change_nothing_on_the_server(
    redis_server: RedisServer, engine: RedisEngine, busy: Consumer
) -> None:
    letter = (await ask(redis_server.url, "dead", "list", "--json")).document[0]["id"]
    before = everything(engine.client)

    for command in ("inspect pending", "inspect groups", "inspect streams", "inspect consumers", "inspect scheduled",
                    "inspect workers", "inspect event rejected", "dead list", f"dead show {letter}", "groups list",
                    "doctor"):  # fmt: skip
        assert (await ask(redis_server.url, *command.split())).code == 0
        assert (await ask(redis_server.url, *command.split(), "--json")).code == 0

    assert everything(engine.client) == before


async def test_nothing_from_an_event_reaches_the_terminal_as_it_is(redis_server: RedisServer, busy: Consumer) -> None:
    letters = (await ask(redis_server.url, "dead", "list", "--json")).document
    commands = ["inspect pending", "inspect event retrying", "inspect event rejected", "dead list", "doctor"]
    commands += [f"dead show {letter['id']}" for letter in letters]
    for command in commands:
        for json_too in ([], ["--json"]):
            said = await ask(redis_server.url, *command.split(), *json_too)

            assert said.code == 0
            assert not {character for character in said.out if character != "\n" and not character.isprintable()}


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    """Every key of the server as it would be saved, and how long each stands, to the minute."""
    return {key: client.dump(key) + str(round(client.ttl(key) / 600)).encode() for key in client.keys("*")}


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("inspect pending --stream ordres", 1, "no stream 'ordres' on this server; it has orders"),
        ("inspect groups --group shiping", 1, "no group 'shiping' on stream 'orders'; there are shipping"),
        ("inspect consumers --stream orders --group shiping", 1, "no group 'shiping' on stream 'orders'"),
        ("inspect event nobody", 1, "no event nobody"),
        ("inspect event orders/1-1", 1, "no entry 1-1 in stream 'orders'"),
        ("inspect event orders/1", 2, "named stream/entry-id"),
        ("dead list --stream ordres", 1, "no stream 'ordres'"),
        ("dead list --group shiping", 1, "no group 'shiping'"),
        ("dead show orders/shipping/1-1", 1, "no dead letter orders/shipping/1-1"),
        ("dead show 1-1", 2, "named stream/group/entry-id"),
        ("dead replay orders/shipping/1-1", 1, "no dead letter orders/shipping/1-1"),
        ("dead replay orders/shipping/x", 2, "named stream/group/entry-id"),
        ("dead replay", 2, "--all"),
        ("dead replay --all orders/shipping/1-1", 2, "--all"),
        ("dead replay orders/shipping/1-1 --group g", 2, "give one of both"),
        ("dead replay --all", 2, "give --yes"),
        ("dead purge", 2, "give --yes"),
        ("dead purge orders/shipping/1-1", 2, "give --yes"),
        ("dead purge orders/shipping/1-1 --yes", 1, "no dead letter"),
        ("dead replay --all --yes --group shiping", 1, "no group 'shiping'"),
        ("groups drop orders shiping", 1, "no group 'shiping' on stream 'orders'; there are shipping"),
        ("groups drop ordres shipping", 1, "no stream 'ordres'"),
        ("groups drop orders shipping", 1, "has living workers"),
        ("groups drop orders", 2, "Missing argument"),
        ("scheduled cancel orders running", 1, "no event running waits beside stream 'orders'"),
        ("scheduled move orders nobody --delay 1", 1, "no event nobody waits beside stream 'orders'"),
        ("scheduled move orders later", 2, "Give --delay or --at"),
        ("scheduled move orders later --delay 1 --at 2030-01-01", 2, "Give --delay or --at"),
        ("scheduled move orders later --delay -1", 2, "--delay"),
        ("scheduled move orders later --at soon", 2, "'soon' is no moment"),
        ("replay --stream ordres --group g --since 0", 1, "no stream 'ordres'"),
        ("replay --stream orders --group g --since soon", 2, "no place in history"),
        ("replay --stream orders --group g --since 2999-01-01", 2, "future"),
        ("replay --stream orders --group g", 2, "Missing option '--since'"),
        ("inspect groups --broker memory://", 2, "lives inside one process"),
        ("inspect groups --broker nats://h", 2, "known schemes"),
        ("inspect groups -A nowhere:app", 2, "no module 'nowhere'"),
        ("publish OrderPlaced {}", 2, "which app?"),
    ],
)
async def test_what_goes_wrong_is_said_in_one_line(
    redis_server: RedisServer, busy: Consumer, command: str, code: int, said: str
) -> None:
    answer = await ask(redis_server.url, *command.split())

    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "inspect pending", "inspect groups", "inspect streams", "inspect consumers", "inspect scheduled",
        "inspect workers", "inspect event e", "inspect event s/1-1", "dead list", "dead show s/g/1-1",
        "dead replay s/g/1-1", "dead replay --all --yes", "dead purge --yes", "groups list", "groups drop s g",
        "replay --stream s --group g --since 1h", "doctor", "scheduled cancel s e", "scheduled move s e --delay 1",
    ],
)  # fmt: skip
async def test_without_a_broker_every_command_says_which_one_it_misses(command: str) -> None:
    answer = await ask("redis://me:secret@127.0.0.1:1/0", *command.split())

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("Error: the broker redis://me:**@127.0.0.1:1/0 cannot be used")
    assert answer.err.count("\n") == 1


async def test_a_server_that_refuses_is_told_in_its_words(redis_server: RedisServer, engine: RedisEngine) -> None:
    engine.client.set("{stream:orders}:dead", "no stream")
    engine.client.sadd("{streamtask}:streams", "orders")

    answer = await ask(redis_server.url, "dead", "list")

    assert answer.code == 1
    assert "WRONGTYPE" in answer.err
    with pytest.raises(TransportError):
        await (await engine.consumer()).dead_letters.count("orders")


# ── doctor ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_doctor_finds_what_the_server_is_set_to(private_redis: RedisServer) -> None:
    client = private_redis.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", str(client.info("memory")["used_memory"]))
    client.config_set("appendfsync", "no")
    client.config_set("timeout", "300")

    levels = {finding["check"]: finding["level"] for finding in await found(private_redis.url)}
    assert levels == {
        "maxmemory-policy": "problem",
        "maxmemory": "problem",
        "appendfsync": "warning",
        "timeout": "warning",
    }
    table = await ask(private_redis.url, "doctor")
    assert "CONFIG SET maxmemory-policy noeviction" in table.out


async def test_the_doctor_says_what_it_may_not_ask(private_redis: RedisServer) -> None:
    client = private_redis.client()
    client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-config")

    findings = await found(f"unix://guest:pw@{private_redis.socket}")

    assert [finding["check"] for finding in findings] == ["permissions"]
    assert "could not check appendfsync, min-replicas-to-write, timeout" in findings[0]["message"]


async def test_the_doctor_finds_nothing_on_a_sound_server(private_redis: RedisServer) -> None:
    assert await found(private_redis.url) == []
    answer = await ask(private_redis.url, "doctor")
    assert ("Nothing found" in answer.out) != ("CVE" in answer.out)


async def found(url: str) -> list[dict[str, Any]]:
    """What the doctor finds, but for holes of the server's version."""
    findings = (await ask(url, "doctor", "--json")).document
    return [finding for finding in findings if finding["check"] != "version"]


async def test_the_doctor_names_the_commands_for_groups_and_dead_letters(
    redis_server: RedisServer, engine: RedisEngine, busy: Consumer
) -> None:
    gone = await engine.consumer(group="old-service")
    engine.client.hset("{stream:orders}:seen", "old-service", 1)
    assert await gone.pending() == 0

    found = (await ask(redis_server.url, "doctor")).out

    assert "streamtask groups drop orders old-service" in found
    assert "streamtask dead list --stream orders" in found
    assert "streamtask replay --stream orders --group shipping --since" in found
