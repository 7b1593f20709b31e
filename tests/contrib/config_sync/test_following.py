"""Following: a service has the head, keeps what was changed by hand, says so, and goes on without the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from streamtask_contrib.config_sync import ConfigSettings, Follower, following, router
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.versions import Configs
from streamtask_contrib.events import ConfigReported, ConfigRollbackRequested

from streamtask import App, ConfigurationError
from tests.chaos.conftest import one_server
from tests.chaos.workers import Emitted, until
from tests.contrib.config_sync.sources import MadeSource, look
from tests.servers import RedisServer

pytestmark = one_server

PATIENCE = 20.0
A, B, C = b"# one\nmodel: a\nbeam: {size: 5}\n", b"# two\r\nmodel: b", b"model: c\n"


class Source:
    """The source of a service, each change of which is a version at once."""

    def __init__(self, app: App) -> None:
        self.keeper = Keeper(app, keep=3)
        self.source = MadeSource(None)
        self.configs = Configs(app.records)

    async def write(self, content: bytes) -> None:
        self.source.content = content
        await look(self.keeper, self.source)

    async def roll_back(self, to_version: int) -> None:
        request = ConfigRollbackRequested(request_id=f"r{to_version}", service="whisper", to_version=to_version)
        await self.keeper.restore(request)


@pytest.fixture
async def source(private_redis: RedisServer) -> AsyncIterator[Source]:
    async with App("config-sync", broker=private_redis.url) as app:
        yield Source(app)


@pytest.fixture
def app(private_redis: RedisServer) -> App:
    """The service's own app, which nobody has connected."""
    return App("whisper", broker=private_redis.url)


async def test_a_service_has_the_head_at_once_and_each_new_one_as_it_comes(source: Source, app: App):
    await source.write(A)
    # Every minute: what comes, comes by the stream.
    async with Follower(app, "whisper", every=60) as config:
        assert config.values["model"] == config.values.model == "a"
        assert config.values["beam.size"] == config.values["beam"]["size"] == config.values.beam.size == 5
        await asyncio.sleep(0.3)  # until the stream is read
        waiting = asyncio.create_task(config.changed())
        await source.write(B)
        async with asyncio.timeout(5):
            assert (await waiting)["model"] == "b"
        assert config.version == 2


async def test_polling_alone_is_enough(source: Source, app: App, monkeypatch: pytest.MonkeyPatch):
    async def nothing(self: Follower) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Follower, "_listen", nothing)
    await source.write(A)
    async with Follower(app, "whisper", every=0.1) as config:
        seen = config.values
        await source.write(B)
        async with asyncio.timeout(5):
            assert (await config.changed(seen))["model"] == "b"


async def test_a_change_that_came_before_one_waits_is_not_missed(source: Source, app: App):
    await source.write(A)
    async with Follower(app, "whisper", every=0.05) as config:
        seen = config.values
        await source.write(B)
        await until(lambda: config.version == 2, PATIENCE)
        async with asyncio.timeout(1):
            assert (await config.changed(seen))["model"] == "b"


async def test_the_file_holds_the_bytes_and_is_its_owners_alone(source: Source, app: App, tmp_path: Path):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    async with Follower(app, "whisper", file=file, every=0.05) as config:
        assert file.read_bytes() == A
        assert file.stat().st_mode & 0o777 == 0o600
        file.chmod(0o644)
        await source.write(B)
        await until(lambda: config.version == 2, PATIENCE)
        assert file.read_bytes() == B
        assert file.stat().st_mode & 0o777 == 0o644


async def test_what_is_changed_by_hand_is_run_with_and_left_until_there_is_a_new_version(
    source: Source, app: App, tmp_path: Path, private_redis: RedisServer
):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    async with (
        Follower(app, "whisper", file=file, every=0.05) as config,
        Emitted(private_redis.url, "config-sync") as all_,
    ):
        reports = Reports(all_)
        await until(lambda: reports.has(1, "a"), PATIENCE)
        file.write_bytes(A.replace(b"model: a", b"model: by hand"))
        assert (await config.changed(config.values))["model"] == "by hand"
        await until(lambda: reports.has(1, "by hand"), PATIENCE)
        await asyncio.sleep(0.5)  # ten looks, none of which may put it back
        assert b"by hand" in file.read_bytes()
        await source.roll_back(1)
        await until(lambda: file.read_bytes() == A, PATIENCE)
        await until(lambda: reports.has(2, "a"), PATIENCE)


@pytest.mark.parametrize("change", [b"model: [", None], ids=["broken", "gone"])
async def test_a_file_that_cannot_be_read_is_reported_and_the_service_keeps_its_values(
    source: Source, app: App, tmp_path: Path, private_redis: RedisServer, change: bytes | None
):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    async with (
        Follower(app, "whisper", file=file, every=0.05) as config,
        Emitted(private_redis.url, "config-sync") as all_,
    ):
        reports = Reports(all_)
        await until(lambda: reports.has(1, "a"), PATIENCE)
        if change is None:
            file.unlink()
        else:
            file.write_bytes(change)
        await until(lambda: reports.has(1, None), PATIENCE)
        assert config.values["model"] == "a"
        await source.write(B)
        await until(lambda: file.exists() and file.read_bytes() == B, PATIENCE)
        await until(lambda: reports.has(2, "b"), PATIENCE)


async def test_what_is_overridden_is_reported_until_there_is_a_new_version(
    source: Source, app: App, private_redis: RedisServer
):
    await source.write(A)
    async with Follower(app, "whisper", every=0.05) as config, Emitted(private_redis.url, "config-sync") as all_:
        reports = Reports(all_)
        config.override({"beam.size": 1, "model": "other"})
        assert (config.values.beam.size, config.values.model) == (1, "other")
        await until(lambda: reports.has(1, "other"), PATIENCE)
        await source.write(B)
        await until(lambda: config.values.model == "b", PATIENCE)
        await until(lambda: reports.has(2, "b"), PATIENCE)


class Reports:
    """What was reported."""

    def __init__(self, emitted: Emitted) -> None:
        self._emitted = emitted

    async def has(self, version: int, model: str | None) -> bool:
        reports = [each for each in await self._emitted.all() if "reported_at" in each]
        return any((each["version"], each["values"].get("model")) == (version, model) for each in reports)


async def test_a_report_comes_again_after_half_a_minute_without_any_change(
    source: Source, app: App, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(following, "REPORT_EVERY", 0.3)
    await source.write(A)
    async with Follower(app, "whisper", every=0.05), Emitted(private_redis.url, "config-sync") as all_:

        async def are_three() -> bool:
            return len([each for each in await all_.all() if "reported_at" in each]) >= 3

        await until(are_three, PATIENCE)
    assert ConfigReported.model_fields.keys() >= {"reported_at"}


# ── beginnings ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_of_an_earlier_version_is_brought_up_to_date(source: Source, app: App, tmp_path: Path):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    await source.write(B)
    file.write_bytes(A)
    async with Follower(app, "whisper", file=file) as config:
        assert (file.read_bytes(), config.version) == (B, 2)


async def test_a_file_that_is_no_version_was_changed_by_hand_and_is_left(
    source: Source, app: App, tmp_path: Path, private_redis: RedisServer
):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    file.write_bytes(b"model: by hand\n")
    async with (
        Follower(app, "whisper", file=file, every=0.05) as config,
        Emitted(private_redis.url, "config-sync") as all_,
    ):
        assert (config.values.model, config.version) == ("by hand", 0)
        await until(lambda: Reports(all_).has(0, "by hand"), PATIENCE)
        assert file.read_bytes() == b"model: by hand\n"
        await source.write(B)
        await until(lambda: file.read_bytes() == B, PATIENCE)


async def test_without_a_broker_the_file_is_what_there_is(app: App, tmp_path: Path, private_redis: RedisServer):
    file = tmp_path / "whisper.yaml"
    file.write_bytes(A)
    async with App("config-sync", broker=private_redis.url) as other:
        await Source(other).write(A)
        await Source(other).write(B)
    private_redis.stop()
    async with Follower(app, "whisper", file=file, every=0.1) as config:
        assert (config.values.model, config.version) == ("a", 0)
        private_redis.start()
        await until(lambda: config.version == 2, PATIENCE)
        assert file.read_bytes() == B


async def test_a_broker_that_goes_away_leaves_the_service_with_what_it_has(
    source: Source, app: App, tmp_path: Path, private_redis: RedisServer
):
    file = tmp_path / "whisper.yaml"
    await source.write(A)
    async with Follower(app, "whisper", file=file, every=0.1) as config:
        private_redis.kill()
        await asyncio.sleep(1)
        assert config.values.model == "a"
        # By hand, while nobody can be told.
        file.write_bytes(A.replace(b"model: a", b"model: by hand"))
        await until(lambda: config.values.model == "by hand", PATIENCE)
        private_redis.start()
        await source.write(B)
        await until(lambda: config.values.model == "b", PATIENCE)


@pytest.mark.parametrize("turns", range(5))
async def test_it_ends_also_while_it_is_woken(source: Source, app: App, turns: int):
    await source.write(A)
    async with asyncio.timeout(PATIENCE):
        async with Follower(app, "whisper", every=60) as config:
            await asyncio.sleep(0.1)
            config._woken.set()
            for _ in range(turns):
                await asyncio.sleep(0)


async def test_without_a_broker_and_a_file_it_says_what_is_missing(
    app: App, private_redis: RedisServer, tmp_path: Path
):
    with pytest.raises(ConfigurationError, match="no configuration of 'whisper'"):
        async with Follower(app, "whisper", patience=0.5):
            pass
    private_redis.stop()
    with pytest.raises(ConfigurationError, match="no configuration of 'whisper'"):
        async with Follower(app, "whisper", file=tmp_path / "whisper.yaml", patience=0.5):
            pass


async def test_it_waits_for_the_first_version(source: Source, app: App):
    async def begin() -> str:
        async with Follower(app, "whisper", every=0.05) as config:
            return str(config.values.model)

    waiting = asyncio.create_task(begin())
    await asyncio.sleep(0.3)
    await source.write(A)
    assert await waiting == "a"


async def test_it_lives_in_the_lifespan_of_a_web_application(source: Source, app: App):
    fastapi = pytest.importorskip("fastapi", reason="the extra `api` is not installed")
    await source.write(A)

    async def lifespan(api: object) -> AsyncIterator[None]:
        async with app.lifespan(api), Follower(app, "whisper", every=0.05) as config:
            seen.append(config)
            yield

    seen: list[Follower] = []
    api = fastapi.FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))
    async with api.router.lifespan_context(api):
        assert seen[0].values.model == "a"
        await source.write(B)
        await until(lambda: seen[0].values.model == "b", PATIENCE)


async def test_a_version_that_cannot_be_written_is_not_taken_over_and_is_tried_again(
    source: Source, app: App, tmp_path: Path
):
    file = tmp_path / "folder" / "whisper.yaml"
    file.parent.mkdir()
    await source.write(A)
    async with Follower(app, "whisper", file=file, every=0.05) as config:
        file.unlink()
        file.parent.rmdir()
        await source.write(B)
        await asyncio.sleep(0.5)
        assert (config.version, config.values.model) == (1, "a")
        file.parent.mkdir()
        await until(lambda: config.version == 2, PATIENCE)
        assert file.read_bytes() == B


async def test_the_drift_of_an_override_is_found_and_cleared(app: App, private_redis: RedisServer, tmp_path: Path):
    (tmp_path / "whisper.yaml").write_bytes(A)
    worker = App("config-sync", broker=private_redis.url)
    worker.include(router(ConfigSettings(folder=tmp_path, every=0.1)))
    async with worker.worker(), Follower(app, "whisper", every=0.1, instance="one") as config:
        configs = Configs(worker.records)

        async def drifting(*keys: str) -> bool:
            return [each.changed_keys for each in await configs.drifts("whisper")] == ([list(keys)] if keys else [])

        config.override({"beam.size": 7})
        await until(lambda: drifting("beam.size"), PATIENCE)
        config.override({"beam.size": 5})
        await until(drifting, PATIENCE)
