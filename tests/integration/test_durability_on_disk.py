"""`durability="disk"`: a publish that returned is on the disk of the server; a server that cannot say so is refused.

What is worth what when the power fails is tried in tests/chaos/test_power_cut.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamtask import App, ConfigurationError, Event, PublishError
from streamtask.errors import TransportError
from tests.acl import Users
from tests.chaos.workers import until
from tests.command_line import ask, run
from tests.servers import RedisCluster, RedisServer, ServerBinary, available_servers

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERY_SECOND = ("--appendonly", "yes", "--appendfsync", "everysec")
NEVER = ("--appendonly", "yes", "--appendfsync", "no")


def on(*binaries: ServerBinary, why_none: str) -> pytest.MarkDecorator:
    """Try it on these, or say why on none."""
    none = pytest.param(None, marks=pytest.mark.skip(reason=why_none), id="no server")
    given = [pytest.param(binary, id=binary.name) for binary in binaries]
    return pytest.mark.parametrize("server_binary", given or [none], indirect=True)


_ABLE = [each for each in available_servers() if each.has_waitaof]
able = on(*_ABLE, why_none="no server here has WAITAOF: it takes Redis 7.2 or newer, or Valkey")
unable = on(*(each for each in available_servers() if not each.has_waitaof), why_none="all servers here have WAITAOF")
#: Those that are believed when they sync once a second, and those that say yes before they have.
truthful = on(
    *(each for each in _ABLE if each.name.startswith("redis") and each.version >= (8,)),
    why_none="no server here is Redis 8.0 or newer",
)
hasty = on(
    *(each for each in _ABLE if each.name.startswith("valkey") or each.version < (8,)),
    why_none="no server here is Valkey, or Redis 7.2 or 7.4",
)


class Job(Event, stream="jobs"):
    n: int


class Other(Event, stream="other-slot"):
    n: int


@pytest.fixture
def server(server_binary: ServerBinary) -> Iterator[RedisServer]:
    """Not started yet."""
    server = RedisServer(server_binary, tcp=True)
    yield server
    server.close()


def waits(server: RedisServer) -> int:
    """How often it was asked what its disk has."""
    calls: int = server.client().info("commandstats").get("cmdstat_waitaof", {"calls": 0})["calls"]
    return calls


# ── a yes, and what it takes ──────────────────────────────────────────────────────────────────────────────────────


@able
async def test_a_publish_returns_when_the_disk_has_the_event(server: RedisServer) -> None:
    server.start(*ALWAYS)
    async with App("a", broker=server.url, durability="disk") as app:
        before = waits(server)
        event_id = await app.publish(Job(n=1))
        assert waits(server) == before + 1
        await app.publish_many([Job(n=n) for n in range(1000)])
        await app.publish(Job(n=2), delay=60.0)
        await app.publish(Job(n=3), dedup_key="three")
        await app.blobs.put(b"large", name="b")
    assert server.client().xlen("stream:jobs") == 1002
    assert any(event_id.encode() in file.read_bytes() for file in (server.folder / "appendonlydir").iterdir())


@able
@pytest.mark.parametrize("kill", [1, 2, 3])
async def test_a_server_that_is_killed_right_after_a_publish_returned_has_the_event(
    server: RedisServer, kill: int
) -> None:
    server.start(*ALWAYS)
    async with App("a", broker=server.url, durability="disk") as app:
        for n in range(kill * 10):
            await app.publish(Job(n=n))
        server.kill()
    server.start(*ALWAYS)

    assert server.client().xlen("stream:jobs") == kill * 10


@able
async def test_publishes_side_by_side_share_one_wait(server: RedisServer) -> None:
    server.start(*ALWAYS)
    async with App("a", broker=server.url, durability="disk") as app:
        before = waits(server)
        await asyncio.gather(*(app.publish(Job(n=n)) for n in range(500)))
        assert waits(server) - before < 50
    assert server.client().xlen("stream:jobs") == 500


@truthful
async def test_where_the_disk_is_synced_once_a_second_many_publishes_wait_as_long_as_one_and_the_log_says_it_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.start(*EVERY_SECOND)
    async with App("a", broker=server.url, durability="disk") as app:
        await app.publish(Job(n=-1))
        before, began = waits(server), time.monotonic()
        await asyncio.gather(*(app.publish(Job(n=n)) for n in range(100)))
        # One after the other they would take a hundred seconds.
        assert time.monotonic() - began < 10
        assert waits(server) - before <= 2
        server.kill()
    server.start(*EVERY_SECOND)

    assert server.client().xlen("stream:jobs") == 101
    assert [record.getMessage() for record in caplog.records].count("disk.synced_once_a_second") == 1


# ── no yes in time ────────────────────────────────────────────────────────────────────────────────────────────────


@able
async def test_what_the_disk_does_not_confirm_raises_and_made_again_it_is_stored_once(server: RedisServer) -> None:
    server.start(*ALWAYS)
    admin = server.client()
    async with App("a", broker=server.url, durability="disk") as app:
        await app.publish(Job(n=0))
        admin.config_set("appendfsync", "no")
        with pytest.raises(PublishError, match="disk of the server did not confirm") as caught:
            await app.publish(Job(n=1))
        admin.config_set("appendfsync", "always")
        for _ in range(2):
            assert await app.publish(Job(n=1), event_id=caught.value.event_id) == caught.value.event_id
    assert admin.xlen("stream:jobs") == 2


@able
@pytest.mark.parametrize("how", ["event_id", "dedup_key"])
async def test_what_was_there_already_is_no_yes_before_the_disk_has_it(server: RedisServer, how: str) -> None:
    server.start(*ALWAYS)
    admin = server.client()
    event_id = "00000000-0000-4000-8000-000000000001"
    options = {"event_id": event_id} | ({"dedup_key": "k"} if how == "dedup_key" else {})
    async with App("a", broker=server.url) as app, App("a", broker=server.url, durability="disk") as careful:
        admin.config_set("appendfsync", "no")
        await app.publish(Job(n=1), **options)
        # On a connection that has written nothing so far.
        with pytest.raises(PublishError, match="disk"):
            await careful.publish(Job(n=1), **options)
    assert admin.xlen("stream:jobs") == 1


@able
async def test_a_file_that_is_given_up_meanwhile_is_no_yes(server: RedisServer) -> None:
    server.start(*ALWAYS)
    async with App("a", broker=server.url, durability="disk") as app:
        await app.publish(Job(n=0))
        server.client().config_set("appendonly", "no")
        with pytest.raises(PublishError, match=r"WAITAOF was refused.*appendonly"):
            await app.publish(Job(n=1))


@able
async def test_a_server_that_stands_still_is_no_yes_and_afterwards_the_event_is_stored_once(
    server: RedisServer,
) -> None:
    server.start(*ALWAYS)
    async with App("a", broker=server.url, durability="disk") as app:
        await app.publish(Job(n=0))
        server.pause()
        try:
            with pytest.raises(PublishError, match="no reply in time") as caught:
                await app.publish(Job(n=1))
        finally:
            server.resume()
        await app.publish(Job(n=1), event_id=caught.value.event_id)
    assert server.client().xlen("stream:jobs") == 2


# ── who is refused ────────────────────────────────────────────────────────────────────────────────────────────────


@unable
async def test_a_server_that_cannot_say_what_its_disk_has_is_refused(server: RedisServer) -> None:
    server.start(*ALWAYS)
    with pytest.raises(ConfigurationError, match=r"durability='disk'.*use Redis 7.2 or newer"):
        async with App("a", broker=server.url, durability="disk"):
            pass


@able
@pytest.mark.parametrize(("options", "remedy"), [(("--appendonly", "no"), "appendonly yes"), (NEVER, "always")])
async def test_a_server_that_never_says_yes_is_refused(
    server: RedisServer, options: tuple[str, ...], remedy: str
) -> None:
    server.start(*options)
    app = App("a", broker=server.url, durability="disk")
    with pytest.raises(ConfigurationError, match=f"durability='disk'.*{remedy}"):
        async with app:
            pass

    @app.on(Job)
    async def handle(job: Job) -> None: ...

    with pytest.raises(ConfigurationError, match=f"durability='disk'.*{remedy}"):
        async with app.worker():
            pass


@hasty
async def test_a_server_that_says_yes_before_its_disk_has_the_event_is_refused(server: RedisServer) -> None:
    server.start(*EVERY_SECOND)
    with pytest.raises(ConfigurationError, match=r"everysec.*too early.*appendfsync always"):
        async with App("a", broker=server.url, durability="disk"):
            pass


@pytest.mark.parametrize(("url", "why"), [("memory://", "no disk"), ("embedded://", "use one of your own")])
def test_what_runs_within_the_program_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"durability='disk'.*{why}"):
        App("a", broker=url, durability="disk").connector()


# ── rights, clusters, the doctor ──────────────────────────────────────────────────────────────────────────────────


@able
async def test_whoever_publishes_needs_waitaof_and_where_not_every_answer_is_believed_config_get(users: Users) -> None:
    users.admin.config_set("appendfsync", "always")
    users.admin.config_set("appendonly", "yes")
    await until(lambda: users.admin.info("persistence")["aof_rewrite_in_progress"] == 0, 10)
    app = App("door", broker=users.url("publisher"), durability="disk")
    believed = users.server.binary.name.startswith("redis") and users.server.binary.version >= (8,)
    if not believed:
        users.take("publisher", "+waitaof")
        with pytest.raises(ConfigurationError, match=r"\+config\|get"):
            async with app:
                pass
        users.take("publisher", "-waitaof", "+config|get")
    with pytest.raises(TransportError, match=r"ACL.*WAITAOF"):
        async with app:
            pass
    users.take("publisher", "+waitaof")
    async with app:
        await app.publish(Job(n=1))
        users.take("publisher", "-waitaof")
        with pytest.raises(PublishError, match=r"ACL.*WAITAOF"):
            await app.publish(Job(n=2))


@able
async def test_on_a_cluster_each_master_confirms_its_own(server_binary: ServerBinary) -> None:
    cluster = RedisCluster(server_binary)
    cluster.start()
    try:
        homes = [cluster.master_of_key(f"stream:{name}").client() for name in ("jobs", "other-slot")]
        for master in cluster.masters:
            master.client().config_set("appendfsync", "always")
        async with App("a", broker=cluster.url, durability="disk") as app:
            await app.publish_many([Job(n=1), Other(n=1)])
            homes[0].config_set("appendfsync", "no")
            with pytest.raises(PublishError, match="disk") as caught:
                await app.publish_many([Other(n=2), Job(n=2)])
            # What goes to the other master alone waits for nobody else.
            await app.publish(Other(n=3))
            homes[0].config_set("appendfsync", "always")
            await app.publish(Job(n=2), event_id=caught.value.unsure[1])
        assert [home.xlen(f"stream:{name}") for home, name in zip(homes, ("jobs", "other-slot"), strict=True)] == [2, 3]
    finally:
        cluster.close()


@able
async def test_the_doctor_looks_at_a_server_that_the_app_refuses_and_says_what_to_do(
    server: RedisServer, tmp_path: Path
) -> None:
    def findings() -> dict[str, dict[str, Any]]:
        said = run("doctor", "--json", "-A", "shop:app", folder=tmp_path)
        return {finding["check"]: finding for finding in said.document if finding["check"] == "durability"}

    (tmp_path / "shop.py").write_text(
        f"from streamtask import App\napp = App('shop', broker={server.url!r}, durability='disk')\n"
    )
    server.start(*NEVER)
    found = findings()["durability"]
    assert (found["level"], "always" in found["remedy"]) == ("problem", True)

    server.client().config_set("appendfsync", "always")
    assert findings() == {}
    assert (await ask(server.url, "inspect", "groups")).code == 0
