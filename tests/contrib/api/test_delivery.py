"""Mailboxes: old partials go, finals never do, and who is behind learns where to come back."""

from __future__ import annotations

import asyncio
import random

import pytest

pytest.importorskip("fastapi", reason="the extra `api` is not installed")

from streamtask_contrib.api.completion import Completion
from streamtask_contrib.api.delivery import BehindError, Mailbox, Message, message_of
from streamtask_contrib.events import ProcessingFailed, TranscriptionCompleted, TranslationCompleted

from tests.contrib.api.serving import measured


def final(number: int) -> Message:
    return Message(kind="final", text=f"final {number}", id=f"{number}-0")


def partial(number: int) -> Message:
    return Message(kind="partial", text=f"partial {number}")


async def everything(mailbox: Mailbox) -> list[str]:
    said = []
    while not mailbox.is_empty:
        said.append((await mailbox.get()).text)
    return said


async def test_a_slow_client_loses_its_oldest_partials_and_no_final() -> None:
    mailbox = Mailbox(max_partials=2, max_finals=100)
    for number in range(10):
        mailbox.put(partial(number))
        if number % 3 == 0:
            mailbox.put(final(number))
    assert await everything(mailbox) == ["final 0", "final 3", "final 6", "partial 8", "partial 9", "final 9"]


async def test_a_client_that_leaves_too_many_finals_is_told_the_last_that_it_has() -> None:
    mailbox = Mailbox(max_partials=2, max_finals=3)
    mailbox.put(final(1))
    await mailbox.get()
    for number in range(2, 6):
        mailbox.put(final(number))
    assert mailbox.is_behind.is_set()
    with pytest.raises(BehindError, match="after=1-0"):
        await mailbox.get()
    mailbox.put(final(6))
    assert mailbox.is_empty, "what comes after a gap must not be shown as if there were none"


async def test_a_client_that_waits_gets_what_comes_and_what_it_asked_for_first() -> None:
    mailbox = Mailbox(max_partials=2, max_finals=1, earlier=[final(n) for n in range(5)], last_id="0")
    mailbox.put(final(5))
    assert await everything(mailbox) == [f"final {n}" for n in range(6)]
    waiting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.put(final(6))
    assert (await waiting).text == "final 6"


async def test_at_random_nothing_final_is_lost_doubled_or_out_of_order() -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    mailbox = Mailbox(max_partials=3, max_finals=10_000)
    put, got = 0, []
    for _ in range(5000):
        if chance.random() < 0.6:
            if chance.random() < 0.5:
                mailbox.put(partial(put))
            else:
                mailbox.put(final(put))
                put += 1
        elif not mailbox.is_empty:
            got.append((await mailbox.get()).text)
    got += await everything(mailbox)
    measured(seed=seed, finals=put)
    assert [text for text in got if text.startswith("final")] == [f"final {n}" for n in range(put)]


def test_a_user_id_and_where_blobs_are_is_not_told() -> None:
    told = message_of(
        TranscriptionCompleted(session_id="talk", chunk_id="talk-0", user_id="anna", segments_uri="redis:///x"),
        entry_id="1-0",
    )
    assert "anna" not in told.text
    assert "redis" not in told.text
    assert '"segments_left_out":true' in told.text


def test_a_session_is_done_when_every_chunk_and_every_translation_is_answered() -> None:
    facts = {"session_id": "talk", "chunk_id": "talk"}
    words = [TranscriptionCompleted(**facts, sequence=n, text="hello", language="en") for n in range(2)]
    quiet = TranscriptionCompleted(**facts, sequence=2, is_last=True)
    french = TranslationCompleted(**facts, sequence=0, source_language="en", target_language="fr")
    failed = ProcessingFailed(
        **facts, sequence=1, stage="translation", target_language="fr", reason="rejected", message="no"
    )
    results = [*words, quiet, french, failed]
    for order in range(20):
        completion = Completion(["fr", "en"])
        shuffled = random.Random(order).sample(results, len(results))
        for result in shuffled[:-1]:
            completion.take(result)
            completion.take(result)
        assert not completion.is_done, shuffled[-1]
        completion.take(shuffled[-1])
        assert completion.is_done


def test_a_partial_result_completes_nothing() -> None:
    completion = Completion([], chunks=1)
    completion.take(TranscriptionCompleted(session_id="talk", chunk_id="talk-0~1", is_partial=True, is_last=True))
    assert not completion.is_done
