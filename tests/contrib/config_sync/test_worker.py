"""The configuration worker as real processes, on a real Redis, with a service in a process of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from streamtask_contrib.config_sync.differences import difference
from streamtask_contrib.events import ConfigDriftDetected, ConfigReported, ConfigSnapshot

from tests.chaos.conftest import Measured, StartWorker, one_server
from tests.chaos.workers import LONG, Ledger, dead_letters, until
from tests.contrib.config_sync.processes import PATIENCE, WORKER, Scene, places_of
from tests.servers import RedisServer

pytestmark = [one_server, pytest.mark.timeout(180)]

SECRETS = ("hunter2-of-the-source", "Tr0ub4dor-by-hand", "s3cr3t-in-a-url", "An0ther-in-a-url")
#: CRLF, an order of its own, comments, what is not ASCII, and no newline at the end.
FIRST = (
    "# the fast one\r\nmodel: small   # not Zoë's\r\nzulu: 1\r\nalpha: [en, dé]\r\n"
    f"password: {SECRETS[0]}\r\nbroker: redis://user:{SECRETS[2]}@host:6379/0\r\nbeam: {{size: 5}}"
).encode()


@pytest.fixture
async def scene(
    private_redis: RedisServer, tmp_path: Path, start_worker: StartWorker, ledger: Ledger
) -> AsyncIterator[Scene]:
    made = Scene(private_redis, tmp_path, start_worker, ledger)
    async with made.app:
        yield made


async def test_a_change_by_hand_is_a_drift_within_5_seconds_and_the_rollback_restores_every_byte(
    scene: Scene, measured: Measured
):
    scene.source.write_bytes(FIRST)
    workers = [await scene.worker(), await scene.worker()]
    service = await scene.service()
    assert scene.file.read_bytes() == FIRST

    began = time.monotonic()
    by_hand = FIRST.replace(b"small ", b"large ").replace(SECRETS[0].encode(), SECRETS[1].encode())
    by_hand = by_hand.replace(SECRETS[2].encode(), SECRETS[3].encode()).replace(b"size: 5", b"size: 7, patience: 2")
    scene.file.write_bytes(by_hand)

    async def is_told() -> bool:
        return bool(await scene.told(ConfigDriftDetected))

    await until(is_told, PATIENCE)
    measured("seconds from the change to the drift", time.monotonic() - began)
    assert time.monotonic() - began < 5
    [drift] = await scene.told(ConfigDriftDetected)
    assert drift["changed_keys"] == ["beam.patience", "beam.size", "broker", "model", "password"]
    assert drift["diff"].splitlines() == [
        "+ beam.patience: 2",
        "~ beam.size: 5 → 7",
        "~ broker: a secret that differs",
        '~ model: "small" → "large"',
        "~ password: a secret that differs",
    ]
    assert (drift["service"], drift["instance"], drift["expected_version"]) == ("whisper", "whisper-1", 1)

    async def is_remembered() -> bool:
        # It is told first.
        return [each.instance for each in await scene.configs.drifts("whisper")] == ["whisper-1"]

    await until(is_remembered, PATIENCE)
    assert scene.file.read_bytes() == by_hand

    began = time.monotonic()
    await scene.roll_back(1)
    await until(lambda: scene.file.read_bytes() == FIRST, PATIENCE)
    measured("seconds from the request to the bytes", time.monotonic() - began)
    assert (await scene.settled()).number == 2
    assert scene.source.read_bytes() == FIRST

    async def is_clear() -> bool:
        return not await scene.configs.drifts("whisper")

    await until(is_clear, PATIENCE)
    assert len(await scene.told(ConfigDriftDetected)) == 1
    assert [each["version"] for each in await scene.told(ConfigSnapshot)] == [1, 2]
    await no_secret_anywhere(scene, [*workers, service])


async def no_secret_anywhere(scene: Scene, processes: list) -> None:
    """But for the records of the bytes, which hold them as they are."""
    stored = scene.stored()
    holding = places_of(SECRETS, stored)
    assert holding
    assert all(key.startswith("streamtask:record:config-content-") for key in holding)
    assert places_of(SECRETS, {process.folder.name: process.log_text().encode() for process in processes}) == set()
    versions = [await scene.configs.get("whisper", n) for n in await scene.configs.numbers("whisper")]
    shown = {f"{n}": repr((version, version.shown())).encode() for n, version in enumerate(versions) if version}
    shown["troubles"] = repr(await scene.configs.troubles("whisper")).encode()
    shown["difference"] = difference(versions[0].values, {}).text.encode() if versions[0] else b""
    assert places_of(SECRETS, shown) == set()
    assert len(stored) > 10


@asynccontextmanager
async def observed(*files: Path) -> AsyncIterator[set[bytes]]:
    """Everything that is seen in some files meanwhile."""
    seen: set[bytes] = set()

    async def observe() -> None:
        while True:
            seen.update(file.read_bytes() for file in files)
            await asyncio.sleep(0.005)

    observing = asyncio.create_task(observe())
    try:
        yield seen
    finally:
        observing.cancel()
        with suppress(asyncio.CancelledError):
            await observing


async def test_two_rollbacks_at_once_end_in_one_of_the_two_states_everywhere(
    scene: Scene, measured: Measured, chance: random.Random
):
    kept = {n: f"# {n}\r\nmodel: m{n}\n{'x: 1' if n % 2 else 'y: [2]'}".encode() for n in (1, 2, 3)}
    scene.source.write_bytes(kept[1])
    workers = await asyncio.gather(scene.worker(), scene.worker())
    await scene.service()
    for n in (2, 3):
        await scene.write(kept[n], n)
    await scene.settled()
    number, longest, ends = 3, 0.0, {"first": 0, "second": 0}

    async with observed(scene.source, scene.file) as seen:
        for turn in range(100 if LONG else 30):
            began = time.monotonic()
            # Not of the two oldest: where 20 are kept, they have to make room.
            one, other = chance.sample((await scene.configs.numbers("whisper"))[-18:], 2)
            wanted = [version.content for n in (one, other) if (version := await scene.configs.get("whisper", n))]
            await asyncio.gather(scene.roll_back(one, f"{turn}-one"), scene.roll_back(other, f"{turn}-other"))
            number += 2
            await scene.head(number)
            head = await scene.settled()
            longest = max(longest, time.monotonic() - began)
            assert head.number == number
            assert head.content in wanted
            ends["first" if head.content == wanted[0] else "second"] += 1

    measured("rounds", sum(ends.values()))
    measured("rounds that ended in the first of the two", ends["first"])
    measured("seconds of the longest round", longest)
    restored = [len(worker.logs("config.restored")) for worker in workers]
    measured("rollbacks that the first worker made", restored[0])
    assert sum(restored) == number - 3
    assert min(restored) > 0
    # Whatever was seen in a file at any moment is one of the states, whole.
    assert seen <= set(kept.values())
    # No version was made of what we wrote ourselves, and each was told once.
    assert [each["version"] for each in await scene.told(ConfigSnapshot)] == list(range(1, number + 1))
    assert await scene.told(ConfigDriftDetected) == []


#: Waits where the test wants it to, in the first process that comes there once the test says so.
HELD = (
    WORKER
    + """
from streamtask_contrib.config_sync import keeping
from streamtask_contrib.config_sync.sources.folder import FolderSource
from streamtask_contrib.config_sync.versions import Configs


def is_first():
    try:
        os.close(os.open(os.environ["CHAOS_LEDGER"] + "-taken", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def before(owner, name, what):
    kept = getattr(owner, name)

    async def waits(*arguments, **options):
        if os.environ["AT"] == what and is_open("armed") and is_first():
            note("there", what)
            await gate("later")
        return await kept(*arguments, **options)

    setattr(owner, name, waits)


before(keeping.Keeper, "publish", "publish")
before(FolderSource, "write", "write")
before(keeping.Keeper, "_read_back", "read back")
before(Configs, "keep", "keep")
"""
)


@pytest.mark.parametrize("at", ["publish", "keep"])
@pytest.mark.parametrize("what", ["a change", "a rollback"])
async def test_a_worker_killed_behind_the_swap_has_its_snapshot_published_once(
    scene: Scene, ledger: Ledger, measured: Measured, at: str, what: str
):
    worker = await start_held(scene, at)
    ledger.open_gate("armed")
    if what == "a change":
        scene.source.write_bytes(b"model: c\n")
    else:
        await scene.roll_back(1)
    await until(lambda: ledger.lines("there"), PATIENCE)
    # It is the head already, and nobody has heard of it.
    await scene.head(3)
    assert [each["version"] for each in await scene.told(ConfigSnapshot)] == [1, 2]
    began = time.monotonic()
    await worker.kill_child()

    async def is_told() -> bool:
        return len(await scene.told(ConfigSnapshot)) == 3

    await until(is_told, PATIENCE)
    measured("seconds from the kill to the snapshot", time.monotonic() - began)
    await asyncio.sleep(1.5)  # long enough for several looks, each of which could tell it again
    assert [each["version"] for each in await scene.told(ConfigSnapshot)] == [1, 2, 3]
    assert (await scene.settled_source()).number == 3


@pytest.mark.parametrize("at", ["write", "read back"])
async def test_a_worker_killed_while_it_writes_back_leaves_it_to_the_next(scene: Scene, ledger: Ledger, at: str):
    worker = await start_held(scene, at)
    ledger.open_gate("armed")
    await scene.roll_back(1)
    await until(lambda: ledger.lines("there"), PATIENCE)
    assert scene.source.read_bytes() == (b"model: b\n" if at == "write" else b"model: a\n")
    await worker.kill_child()

    assert (await scene.settled_source()).number == 3
    assert scene.source.read_bytes() == b"model: a\n"
    assert [each["version"] for each in await scene.told(ConfigSnapshot)] == [1, 2, 3]


async def start_held(scene: Scene, at: str):
    scene.source.write_bytes(b"model: a\n")
    worker = await scene.worker(HELD, at=at)
    await scene.head(1)
    await scene.write(b"model: b\n", 2)
    await scene.settled_source()
    return worker


async def test_a_worker_that_comes_late_to_its_writing_changes_nothing(scene: Scene, ledger: Ledger):
    await start_held(scene, "write")
    await scene.worker(HELD, at="write")
    ledger.open_gate("armed")
    await scene.roll_back(1, "one")
    await until(lambda: ledger.lines("there"), PATIENCE)
    # Its lease runs out meanwhile; the other writes this version, and the next.
    assert (await scene.settled_source()).number == 3
    await scene.roll_back(2, "other")
    await scene.head(4)
    assert (await scene.settled_source()).content == b"model: b\n"
    ledger.open_gate("later")
    await asyncio.sleep(1.5)  # long enough for several looks of both
    assert (await scene.settled_source()).number == 4
    assert scene.source.read_bytes() == b"model: b\n"


async def test_another_worker_goes_on_watching_when_one_is_killed(scene: Scene, measured: Measured):
    scene.source.write_bytes(b"model: a\n")
    workers = [await scene.worker(), await scene.worker()]
    await scene.head(1)
    await workers[0].kill_whole()
    began = time.monotonic()
    await scene.write(b"model: b\n", 2)
    measured("seconds from the kill to the next version", time.monotonic() - began)


async def test_versions_go_on_when_the_broker_was_killed_and_came_back(scene: Scene, measured: Measured):
    scene.source.write_bytes(b"model: a\n")
    await scene.worker()
    await scene.service()
    scene.server.kill()
    scene.source.write_bytes(b"model: b\n")
    await asyncio.sleep(1)
    began = time.monotonic()
    scene.server.start()
    await until(lambda: scene.file.read_bytes() == b"model: b\n", PATIENCE)
    measured("seconds from the broker's start to the service's file", time.monotonic() - began)
    assert (await scene.settled()).number == 2


async def test_a_rollback_to_what_is_not_kept_is_a_dead_letter_that_says_why(scene: Scene):
    scene.source.write_bytes(b"model: a\n")
    await scene.worker()
    await scene.head(1)
    await scene.roll_back(7, "the-seventh")

    async def is_refused() -> bool:
        return await scene.configs.refusal("the-seventh") is not None

    await until(is_refused, PATIENCE)
    await until(partial(has_dead_letters, scene), PATIENCE)
    [dead] = await dead_letters(scene.server.url, "config-sync")
    assert "no rollback of 'whisper': it has no version 7; kept are 1 to 1" in str(dead)
    assert (await scene.head(1)).number == 1


async def has_dead_letters(scene: Scene) -> bool:
    return bool(await dead_letters(scene.server.url, "config-sync"))


async def test_a_service_that_is_a_moment_behind_is_no_drift(scene: Scene, ledger: Ledger):
    scene.source.write_bytes(b"model: m1\n")
    await scene.worker()
    await scene.service()
    for n in range(2, 8):
        await scene.write(b"model: m%d\n" % n, n)
    await until(lambda: [line.more["model"] for line in ledger.lines("runs")][-1] == "m7", PATIENCE)

    async def has_reported() -> bool:
        return any(each["version"] == 7 for each in await scene.told(ConfigReported))

    await until(has_reported, PATIENCE)
    assert await scene.told(ConfigDriftDetected) == []
