"""Keeping versions: a change is one version, a rollback one more, and what we write is never taken for a change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from streamtask_contrib.config_sync.keeping import Keeper
from streamtask_contrib.config_sync.versions import Configs, UnreadableStateError
from streamtask_contrib.config_sync.worker import all_sources
from streamtask_contrib.events import ConfigRollbackRequested, ConfigSnapshot

from streamtask import App, Event, PublishError, Reject
from tests.contrib.config_sync.sources import PLACE, MadeSource, look

A, B, C = b"model: a\n", b"model: b\n", b"model: c\n"


class Publisher:
    """An app that says what was published, and can be made to fail."""

    def __init__(self, app: App) -> None:
        self.records = app.records
        self.published: list[ConfigSnapshot] = []
        self.keys: set[str] = set()
        self.failing = 0

    async def publish(self, event: Event, *, dedup_key: str | None = None) -> str:
        assert isinstance(event, ConfigSnapshot)
        assert dedup_key is not None
        if self.failing:
            self.failing -= 1
            raise PublishError("away", event_id="x")
        if dedup_key not in self.keys:
            self.keys.add(dedup_key)
            self.published.append(event)
        return "id"

    @property
    def told(self) -> list[tuple[int, Any]]:
        """Version and model of each snapshot."""
        return [(event.version, event.values.get("model")) for event in self.published]


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with App("test", broker="memory://") as app:
        yield Publisher(app)


@pytest.fixture
def keeper(publisher: Publisher) -> Keeper:
    return Keeper(publisher, keep=5)


def back_to(version: int, request_id: str = "r") -> ConfigRollbackRequested:
    return ConfigRollbackRequested(request_id=request_id, service="whisper", to_version=version)


async def test_each_change_is_the_next_version_and_told_once(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source, times=3)
    source.content = B
    await look(keeper, source, times=3)
    source.content = A
    state = await look(keeper, source, times=3)

    assert publisher.told == [(1, "a"), (2, "b"), (3, "a")]
    assert await keeper.configs.numbers("whisper") == [1, 2, 3]
    assert state.unpublished == ()
    head = await keeper.configs.head("whisper")
    assert head is not None
    assert (head.number, head.content, head.form, head.values, head.source) == (3, A, "yaml", {"model": "a"}, PLACE)
    assert await keeper.configs.services() == ["whisper"]


async def test_a_change_of_comments_is_a_version_with_the_same_checksum(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = b"# why\r\n" + A
    await look(keeper, source)

    first, second = publisher.published
    assert (first.version, second.version) == (1, 2)
    assert first.checksum == second.checksum


async def test_a_bounded_number_of_versions_is_kept_with_their_bytes(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    names = set()
    for n in range(12):
        source.content = b"model: %d\n" % n
        state = await look(keeper, source)
        names |= {facts.content for facts in state.versions}

    assert await keeper.configs.numbers("whisper") == [8, 9, 10, 11, 12]
    assert await keeper.configs.get("whisper", 7) is None
    kept = [await publisher.records.read(f"config-content-{name}") for name in names]
    assert sorted(fields["bytes"] for fields in kept if fields) == sorted(b"model: %d\n" % n for n in range(7, 12))


@pytest.mark.parametrize(
    "content",
    [
        b"# first\r\nmodel: small   # the fast one\r\nz: 1\r\na: 2",
        "name: Zo\u00eb \u4e2d\n\n\n# end".encode(),
        b"\xef\xbb\xbfmodel: a\n",
        b"model: a\rb: 2\r",
    ],
    ids=["CRLF, order, no newline at the end", "not ASCII", "byte order mark", "CR"],
)
async def test_a_rollback_brings_back_the_bytes(keeper: Keeper, content: bytes):
    source = MadeSource(content)
    await look(keeper, source)
    source.content = B
    await look(keeper, source)
    await keeper.restore(back_to(1))
    state = await look(keeper, source, times=3)

    assert source.content == content
    assert state.unwritten == ""
    head = await keeper.configs.head("whisper")
    assert head is not None
    assert (head.number, head.content, head.restored_from) == (3, content, 1)


async def test_a_request_is_fulfilled_once(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = B
    await look(keeper, source)
    for _ in range(3):
        await keeper.restore(back_to(1, "one"))
    assert publisher.told == [(1, "a"), (2, "b"), (3, "a")]


async def test_a_request_that_two_workers_have_is_fulfilled_once(
    keeper: Keeper, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
):
    await look(keeper, MadeSource(A))
    both, store = asyncio.Barrier(2), Configs.store

    async def together(self: Configs, *arguments: Any) -> str:
        await both.wait()
        return await store(self, *arguments)

    monkeypatch.setattr(Configs, "store", together)
    await asyncio.gather(keeper.restore(back_to(1, "one")), keeper.restore(back_to(1, "one")))
    assert publisher.told == [(1, "a"), (2, "a")]


async def test_a_request_whose_snapshot_could_not_be_published_is_told_when_it_comes_again(
    keeper: Keeper, publisher: Publisher
):
    await look(keeper, MadeSource(A))
    publisher.failing = 1
    with pytest.raises(PublishError):
        await keeper.restore(back_to(1, "one"))
    assert publisher.told == [(1, "a")]
    await keeper.restore(back_to(1, "one"))
    assert publisher.told == [(1, "a"), (2, "a")]


@pytest.mark.parametrize(
    ("service", "version", "said"),
    [
        ("whisper", 9, "it has no version 9; kept are 1 to 1"),
        ("unheard-of", 1, "nothing is known of this service"),
        ("{odd}", 1, "nothing is known of this service"),
    ],
)
async def test_what_cannot_be_restored_is_rejected_and_remembered(
    keeper: Keeper, publisher: Publisher, service: str, version: int, said: str
):
    await look(keeper, MadeSource(A))
    with pytest.raises(Reject, match=said):
        await keeper.restore(ConfigRollbackRequested(request_id="r {1}", service=service, to_version=version))
    assert await keeper.configs.refusal("r {1}") == said
    assert await keeper.configs.refusal("another") is None
    assert publisher.told == [(1, "a")]


async def test_a_change_that_nobody_has_seen_yet_outlives_a_rollback(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = B
    await look(keeper, source)
    source.content = C
    await keeper.restore(back_to(1))
    state = await look(keeper, source, times=3)

    assert source.content == C
    assert state.unwritten == ""
    assert publisher.told == [(1, "a"), (2, "b"), (3, "a"), (4, "c")]


async def test_a_change_in_the_moment_of_writing_is_seen_before_it_is_lost(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = B
    await look(keeper, source)
    await keeper.restore(back_to(1))
    source.before_write = lambda: setattr(source, "content", C)
    state = await look(keeper, source, times=2)

    assert (source.content, source.writes, state.unwritten) == (C, [], "")
    assert publisher.told[-1] == (4, "c")


async def test_what_a_worker_wrote_before_it_died_is_no_change_whatever_the_head_is_by_then(
    keeper: Keeper, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
):
    source = MadeSource(A)
    for content in (A, B, C):
        source.content = content
        await look(keeper, source)

    async def dies(*_: object) -> str:
        raise KeyboardInterrupt

    await keeper.restore(back_to(1, "one"))
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_read_back", dies)
        with pytest.raises(KeyboardInterrupt):
            await look(keeper, source)
    assert source.content == A
    await keeper.restore(back_to(2, "other"))
    await look(keeper, source, times=2)
    assert source.content == B
    assert publisher.told == [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b")]


async def test_what_was_read_before_a_rollback_is_no_change_after_it(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = C

    async def meanwhile() -> None:
        source.after_read = partial(asyncio.sleep, 0)
        await look(keeper, source)
        await keeper.restore(back_to(1))
        await look(keeper, source)

    source.after_read = meanwhile
    await look(keeper, source, times=2)
    assert source.content == A
    assert publisher.told == [(1, "a"), (2, "c"), (3, "a")]


async def test_a_source_that_cannot_be_written_is_not_read_again_until_it_changes(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = B
    await look(keeper, source)
    source.is_writable = False
    await keeper.restore(back_to(1))
    await look(keeper, source, times=3)
    head = await keeper.configs.head("whisper")
    assert head is not None
    assert (head.content, source.content) == (A, B)
    assert await keeper.configs.troubles("whisper") == {PLACE: "it is only read"}

    source.content = A
    await look(keeper, source, times=2)
    assert await keeper.configs.troubles("whisper") == {}
    source.content = B
    await look(keeper, source, times=2)
    assert publisher.told == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]


@pytest.mark.parametrize("broken", [b"model: [", b"", None], ids=["half", "empty", "gone"])
async def test_what_is_broken_keeps_the_last_version_and_says_so(
    keeper: Keeper, publisher: Publisher, broken: bytes | None, caplog: pytest.LogCaptureFixture
):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = broken
    await look(keeper, source, times=3)
    assert publisher.told == [(1, "a")]
    [(place, trouble)] = (await keeper.configs.troubles("whisper")).items()
    assert place == PLACE
    assert await all_sources(publisher)() == f"whisper: {trouble}"
    assert [record.message for record in caplog.records].count("config.unreadable") == 1

    source.content = A
    await look(keeper, source, times=2)
    assert await keeper.configs.troubles("whisper") == {}
    assert not await all_sources(publisher)()
    assert publisher.told == [(1, "a")]


@pytest.mark.parametrize("broken", [b"model: [", None], ids=["half", "gone"])
async def test_a_rollback_puts_right_what_is_broken(keeper: Keeper, broken: bytes | None):
    source = MadeSource(A)
    await look(keeper, source)
    source.content = broken
    await look(keeper, source)
    await keeper.restore(back_to(1))
    await look(keeper, source, times=2)
    assert source.content == A
    assert await keeper.configs.troubles("whisper") == {}


async def test_a_service_that_moves_to_another_source_goes_with_the_last_change(keeper: Keeper, publisher: Publisher):
    old, new = MadeSource(A), MadeSource(B, place="test:elsewhere")
    await look(keeper, old)
    await look(keeper, old, new, times=3)
    assert publisher.told == [(1, "a"), (2, "b")]
    await keeper.restore(back_to(1))
    await look(keeper, old, new, times=3)
    assert (old.content, new.content) == (A, A)
    assert new.writes == [A]


async def test_a_snapshot_that_could_not_be_published_is_published_by_whoever_comes_next(
    keeper: Keeper, publisher: Publisher
):
    source = MadeSource(A)
    publisher.failing = 1
    with pytest.raises(PublishError):
        await look(keeper, source)
    state = await look(keeper, source)
    assert (state.unpublished, publisher.told) == ((1,), [])
    await keeper.publish(state)
    await keeper.publish(state)
    assert publisher.told == [(1, "a")]
    assert (await look(keeper, source)).unpublished == ()


async def test_bytes_that_made_room_are_forgotten_by_whoever_comes_next(keeper: Keeper, publisher: Publisher):
    source = MadeSource(A)
    first = (await look(keeper, source)).versions[0].content
    for n in range(4):
        source.content = b"model: %d\n" % n
        await look(keeper, source)
    source.content = b"model: the sixth\n"
    publisher.failing = 1
    with pytest.raises(PublishError):
        await look(keeper, source)
    # As if its worker had died right behind the swap.
    assert await publisher.records.read(f"config-content-{first}")
    await keeper.publish(await look(keeper, source))
    assert not await publisher.records.read(f"config-content-{first}")
    assert (await look(keeper, source)).dropped == ()


async def test_no_secret_is_told(publisher: Publisher):
    keeper = Keeper(publisher, keep=5, patterns=("hook",))
    await look(keeper, MadeSource(b"model: a\npassword: hunter2\nhook: hunter2\nurl: redis://u:hunter2@h/0\n"))
    [snapshot] = publisher.published
    assert snapshot.values == {"model": "a", "password": "***", "hook": "***", "url": "redis://u:***@h/0"}
    version = await keeper.configs.head("whisper")
    assert version is not None
    assert version.shown() == snapshot.values
    assert "hunter2" not in f"{version} {await keeper.configs.state('whisper')!r}"


async def test_a_state_that_is_of_a_newer_version_hides_no_other_service_and_shows_nothing(
    keeper: Keeper, publisher: Publisher, caplog: pytest.LogCaptureFixture
):
    await look(keeper, MadeSource(A))
    await publisher.records.write("configs", {"newer": b"now"}, ttl=60)
    await publisher.records.write("config-of-newer", {"state": b'{"key": "hunter2", "versions": 5}'}, ttl=60)
    assert await keeper.configs.services() == ["whisper"]
    with pytest.raises(UnreadableStateError) as raised:
        await keeper.configs.head("newer")
    assert "hunter2" not in f"{raised.value} {caplog.text}"


async def test_whoever_writes_and_restores_at_once_all_end_in_one_state(publisher: Publisher, chance: random.Random):
    source = MadeSource(A)
    keepers = [Keeper(publisher, keep=5) for _ in range(3)]
    for content in (A, B, C):
        source.content = content
        await look(keepers[0], source)
    restored = 0

    async def looks(keeper: Keeper) -> None:
        for _ in range(30):
            await look(keeper, source)
            await asyncio.sleep(chance.uniform(0, 0.002))

    async def restores(keeper: Keeper) -> None:
        nonlocal restored
        for n in range(10):
            numbers = await keeper.configs.numbers("whisper")
            try:
                await keeper.restore(back_to(chance.choice(numbers), f"{id(keeper)}-{n}"))
            except Reject:
                continue  # it had to make room in the meantime
            restored += 1
            await asyncio.sleep(chance.uniform(0, 0.004))

    await asyncio.gather(*map(looks, keepers), *map(restores, keepers))
    state = await look(keepers[0], source, times=2)
    head = await keepers[0].configs.head("whisper")
    assert head is not None
    assert head.content == source.content
    assert state.unwritten == ""
    # One version for each rollback, and none that was made of what we wrote ourselves.
    assert head.number == 3 + restored
    assert [version for version, _ in publisher.told] == list(range(1, head.number + 1))
