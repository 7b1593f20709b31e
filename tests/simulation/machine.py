"""A state machine that drives an engine through the port, and holds each answer and what it keeps to the model.

Deliveries are kept for as long as the machine runs: an owner that was paused, or that died, acts on them later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamtask.errors import TransportError
from streamtask.transport.values import (
    Dead,
    Delivery,
    Done,
    Mark,
    Outcome,
    Release,
    Retry,
    Skip,
    Subscription,
    Together,
    Wait,
)
from tests.conformance.engines import ORDER_PLACED, order
from tests.simulation.model import LONG, PARKED, WAITING, Model
from tests.simulation.subjects import Subject

_STREAM = "orders"
_GROUPS = ("shipping", "billing")
#: Seconds of a lease.
_LEASE = 60.0
_NEWER = ("OrderPlaced", "v2")
#: What each of three owners handles.
_HANDLES = {
    "a": frozenset({ORDER_PLACED}),
    "b": frozenset({ORDER_PLACED}),
    "c": frozenset({ORDER_PLACED, _NEWER}),
}

_Found = TypeVar("_Found")
_names = st.sampled_from(sorted(_HANDLES))
_groups = st.sampled_from(_GROUPS)
_delays = st.sampled_from([0.0, LONG])
_picks = st.integers(min_value=0, max_value=10_000)


def _dones(emits: int, mark: str, replace: bool) -> Callable[[str], Outcome]:
    def make(name: str) -> Outcome:
        items = tuple(order(stream="made", event_id=f"{name}-{index}") for index in range(emits))
        return Done(items, Mark(mark, LONG, replace=replace) if mark else None)

    return make


def _deads(emits: int) -> Callable[[str], Outcome]:
    def make(name: str) -> Outcome:
        items = tuple(order(stream="made", event_id=f"{name}-{index}") for index in range(emits))
        return Dead(reason="rejected", error="no", attempts=1, emits=items)

    return make


#: Outcomes; what they emit is named after what they settle.
_outcomes = st.one_of(
    st.just(_dones(0, "", False)),
    st.builds(_dones, st.integers(0, 2), st.sampled_from(["", "m", "n"]), st.booleans()),
    st.builds(Retry, delay=_delays, failed=st.booleans(), error=st.sampled_from(["", "ValueError: no"])),
    st.builds(Release, delay=_delays, charged=st.booleans()),
    st.builds(_deads, st.integers(0, 2)),
    st.just(Skip()),
    st.just(Skip("Odd", "v1", LONG)),
    st.builds(Skip, st.just("OrderPlaced"), st.just("v2"), _delays),
    st.builds(Wait, st.just("OrderPlaced"), st.just("v2"), _delays),
)
#: An owner fetches, and settles what it holds.
_turns = st.tuples(_names, _groups, st.lists(_outcomes, max_size=3))


class TransportMachine(RuleBasedStateMachine):
    """Publishers, three owners at a time, and all that befalls them."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._subject = subject
        self._transport = self._call(subject.transport())
        self._model = Model(_GROUPS)
        #: The process that has each name now, by its number.
        self._lives = dict.fromkeys(_HANDLES, 0)
        self._alive: set[str] = set()
        #: Every delivery that was ever handed over.
        self._given: list[Delivery] = []
        #: The event that was stored under each de-duplication key.
        self._keys: dict[str, str] = {}
        #: Once is enough: it takes a hundred times as long as anything else.
        self._restarted = False

    def teardown(self) -> None:
        try:
            self._check_what_is_left()
        finally:
            self._call(self._subject.close())
            # The sockets close in callbacks.
            self._call(asyncio.sleep(0))
            self._loop.close()

    def _check_what_is_left(self) -> None:
        emitted = self._call(self._transport.read("made", after="0", count=1000, wait=0))
        assert len(emitted) == len(self._model.emitted)
        for name, group in self._model.groups.items():
            if group.is_there:
                assert [each.entry_id for each in self._fetch(name, "last", 1000)] == group.unread

    # ── events come ───────────────────────────────────────────────────────────────────────────────────────────

    @initialize()
    def register(self) -> None:
        for name in _GROUPS:
            for owner in _HANDLES:
                self._call(self._transport.register(self._subscription(owner, name)))

    @rule(reply_lost=st.booleans())
    def publish(self, reply_lost: bool) -> None:
        item = order()
        [entry_id] = self._call(self._transport.publish([item]))
        assert isinstance(entry_id, str)
        if reply_lost:
            again = order(event_id=item.event_id, again=True)
            assert self._call(self._transport.publish([again])) == [entry_id]
        self._model.append(entry_id)

    @rule(delay=_delays, reply_lost=st.booleans())
    def publish_for_later(self, delay: float, reply_lost: bool) -> None:
        item = order(delay=delay)
        assert self._call(self._transport.publish([item])) == [item.event_id]
        (self._model.later if delay else self._model.due).add(item.event_id)
        if reply_lost:
            again = order(event_id=item.event_id, delay=delay, again=True)
            assert self._call(self._transport.publish([again])) == [item.event_id]

    @rule(key=st.sampled_from("xy"), delay=st.none() | _delays)
    def publish_once_for_a_key(self, key: str, delay: float | None) -> None:
        item = order(dedup_key=key, dedup_window=LONG, delay=delay)
        newest = self._model.ever[-1] if self._model.ever else "0"
        [stored] = self._call(self._transport.publish([item]))
        assert stored == self._keys.setdefault(key, item.event_id)
        if stored == item.event_id and delay is None:
            [appended] = self._call(self._transport.read(_STREAM, after=newest, count=1000, wait=0))
            self._model.append(appended.entry_id)
        elif stored == item.event_id:
            (self._model.later if delay else self._model.due).add(stored)

    @rule()
    def promote(self) -> None:
        newest = self._model.ever[-1] if self._model.ever else "0"
        next_due = self._call(self._transport.schedule.promote([_STREAM]))
        promoted = self._call(self._transport.read(_STREAM, after=newest, count=1000, wait=0))
        events = [json.loads(each.body or b"")["event_id"] for each in promoted]
        assert sorted(events) == sorted(self._model.due)
        assert (next_due is None) == (not self._model.later)
        self._model.due.clear()
        for delivery in promoted:
            self._model.append(delivery.entry_id)

    @rule(events=st.integers(0, 3), turns=st.lists(_turns, min_size=1, max_size=3))
    def work(self, events: int, turns: list[tuple[str, str, list[Any]]]) -> None:
        """What happens all the time: hypothesis leaves rules out at random, and what the others need must be there."""
        for _ in range(events):
            self.publish(reply_lost=False)
        for name, group, outcomes in turns:
            self.fetch(name, group, 1 + len(outcomes))
            held = [each for each in self._given if self._holds(each) and each.owner == self._owner(name)]
            self._settle(list(zip(held[::-1], outcomes, strict=False)))

    @rule(name=_names, group=_groups, count=st.integers(1, 3))
    def fetch(self, name: str, group: str, count: int) -> None:
        if self._is_missing(group, lambda: self._fetch(group, self._owner(name), count)):
            return
        fetched = self._fetch(group, self._owner(name), count)
        assert [each.entry_id for each in fetched] == self._model.fetch(group, self._owner(name), count)
        self._hand_over(group, fetched)

    # ── deliveries are acted upon, also late ──────────────────────────────────────────────────────────────────

    @precondition(lambda self: self._given)
    @rule(picks=st.lists(st.tuples(_picks, _outcomes), min_size=1, max_size=4))
    def settle(self, picks: list[tuple[int, Any]]) -> None:
        first = self._pick(picks[0][0])
        picked = {self._pick(pick): outcome for pick, outcome in picks}
        # A worker settles what is its own.
        self._settle([(each, outcome) for each, outcome in picked.items() if each.owner == first.owner])

    @precondition(lambda self: self._given)
    @rule(
        pick=_picks,
        stale=st.lists(_picks, max_size=1),
        marks=st.lists(st.tuples(st.sampled_from(["", "m", "n"]), st.booleans()), min_size=3, max_size=3),
    )
    def settle_together(self, pick: int, stale: list[int], marks: list[tuple[str, bool]]) -> None:
        first = self._pick(pick)
        # All that its owner holds, in most cases.
        picked = [first, *map(self._pick, stale), *filter(self._holds, self._given[::-1])]
        members: dict[Delivery, Mark | None] = {}
        for delivery in dict.fromkeys(picked):
            if (delivery.owner, delivery.group) == (first.owner, first.group) and len(members) < len(marks):
                name, replace = marks[len(members)]
                is_taken = any(mark and mark.name == name for mark in members.values())
                members[delivery] = None if is_taken or not name else Mark(name, LONG, replace=replace)
        emits = (order(stream="made", event_id=f"{first.group}-{first.entry_id}-{len(self._model.emitted)}"),)
        (_, mark), *others = members.items()
        [verdict] = self._call(self._transport.settle([(first, Together(emits, mark, tuple(others)))]))
        assert verdict == self._model.settle_together(members, emits)

    @precondition(lambda self: self._given)
    @rule(pick=_picks, state=st.binary(max_size=3), number=st.integers(1, 12))
    def checkpoint(self, pick: int, state: bytes, number: int) -> None:
        delivery = self._pick(pick)
        checkpoints = self._transport.checkpoints
        holds = self._holds(delivery)
        assert self._call(checkpoints.save(delivery, state, number)) == holds
        if holds:
            held = self._model.groups[delivery.group].pending[delivery.entry_id]
            saved = delivery.deliveries, number
            if held.saved < saved:
                held.state, held.saved = state, saved

    @precondition(lambda self: self._given)
    @rule(pick=_picks)
    def load(self, pick: int) -> None:
        delivery = self._pick(pick)
        held = self._model.groups[delivery.group].pending.get(delivery.entry_id)
        if self._model.groups[delivery.group].is_there:
            loaded = self._call(self._transport.checkpoints.load(delivery))
            assert loaded == (held.state if held is not None else None)

    @precondition(lambda self: self._given)
    @rule(picks=st.lists(_picks, min_size=1, max_size=4))
    def renew(self, picks: list[int]) -> None:
        first = self._pick(picks[0])
        held = list(dict.fromkeys(each for each in map(self._pick, picks) if each.owner == first.owner))
        assert set(self._call(self._transport.renew(held))) == {each for each in held if not self._holds(each)}
        for delivery in filter(self._holds, held):
            self._model.groups[delivery.group].pending[delivery.entry_id].is_stale = False

    @precondition(lambda self: self._given)
    @rule(pick=_picks)
    def a_lease_gets_old(self, pick: int) -> None:
        delivery = self._pick(pick)
        assume(self._holds(delivery))
        self._subject.age(delivery, 2 * _LEASE)
        self._model.groups[delivery.group].pending[delivery.entry_id].is_stale = True

    @rule(name=_names, group=_groups, started=st.none() | st.sets(_picks, max_size=3), kept=st.sets(_picks, max_size=3))
    def hand_back(self, name: str, group: str, started: set[int] | None, kept: set[int]) -> None:
        owner = self._owner(name)
        keep = self._entries(kept)
        begun = None if started is None else self._entries(started)
        hand_back = self._transport.recovery.hand_back
        if self._is_missing(group, lambda: self._call(hand_back(_STREAM, group, owner))):
            return
        given = self._call(hand_back(_STREAM, group, owner, started=begun, keep=keep))
        assert given == self._model.hand_back(group, owner, started=begun, keep=keep)

    # ── what is due, and what the dead left ───────────────────────────────────────────────────────────────────

    @rule(name=_names, group=_groups, count=st.integers(0, 3))
    def claim(self, name: str, group: str, count: int) -> None:
        subscription, owner = self._subscription(name, group), self._owner(name)
        claim = self._transport.recovery.claim
        if not self._model.groups[group].is_there:
            # Redis does not look at the group before something is due in it.
            with suppress(TransportError):
                assert self._call(claim(subscription, owner, count=0)).deliveries == []
            return
        pending = self._model.groups[group].pending
        due = {entry_id for entry_id, held in pending.items() if held.owner == PARKED and held.is_due}
        waiting = {entry_id for entry_id, held in pending.items() if held.owner == WAITING}
        handled = waiting if _NEWER in subscription.handles else set()
        claimed = self._call(claim(subscription, owner, count=count))
        taken = [each.entry_id for each in claimed.deliveries]
        expired = [each.entry_id for each in claimed.expired]
        assert len(taken) == min(count, len(due | handled))
        assert set(taken) <= due | handled
        # What is due comes before what waits.
        assert len(due & set(taken)) == min(count, len(due))
        assert set(expired) == {each for each in waiting - handled if pending[each].is_due}
        assert claimed.gone == []
        self._model.claimed(group, owner, taken + expired)
        self._hand_over(group, [*claimed.deliveries, *claimed.expired])

    @rule(name=_names, what=st.sampled_from(["beats", "beats", "dies", "retires"]))
    def an_owner(self, name: str, what: str) -> None:
        owner = self._owner(name)
        if what == "beats":
            self._call(self._transport.recovery.beat(owner, b"{}", ttl=LONG))
            self._alive.add(owner)
            return
        if what == "dies":
            self._subject.silence(owner)
            # What comes after it has another name; its deliveries are still acted upon.
            self._lives[name] += 1
        else:
            read = [self._subscription(name, group) for group in _GROUPS if self._model.groups[group].is_there]
            self._call(self._transport.recovery.retire(owner, read))
        self._alive.discard(owner)

    @rule(group=_groups)
    def reclaim(self, group: str) -> None:
        recovery = self._transport.recovery
        if self._is_missing(group, lambda: self._call(recovery.lost_owners(_STREAM, group, lease=_LEASE))):
            return
        lost = self._call(recovery.lost_owners(_STREAM, group, lease=_LEASE))
        assert lost == self._model.lost_owners(group, self._alive)
        for owner, state in lost.items():
            held = self._model.groups[group].of(owner)
            fresh = [each for each in held if state == "stale" and not held[each].is_stale]
            idle = _LEASE if state == "stale" else 0.0
            given = self._call(recovery.hand_back(_STREAM, group, owner, idle=idle))
            assert given == self._model.hand_back(group, owner, started=None, keep=fresh)

    @rule(group=_groups)
    def tidy_up(self, group: str) -> None:
        retention = self._transport.retention
        assert self._call(retention.trim(_STREAM, max_age=0.0, max_entries=0)) == self._model.trim()
        if not self._is_missing(group, lambda: self._call(retention.sweep_consumers(_STREAM, group, idle=-1.0))):
            self._call(retention.sweep_consumers(_STREAM, group, idle=-1.0))

    # ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self._model.letters.total())
    @rule(pick=_picks)
    def replay(self, pick: int) -> None:
        letters = self._call(self._transport.dead_letters.page(_STREAM, after="", limit=1000))
        letter = letters[pick % len(letters)]
        replay = self._transport.dead_letters.replay
        if self._is_missing(letter.group, lambda: self._call(replay(_STREAM, letter.dead_id))):
            return
        entry_id = self._call(replay(_STREAM, letter.dead_id))
        assert self._call(replay(_STREAM, letter.dead_id)) is None
        self._model.letters[letter.group, letter.entry_id] -= 1
        self._model.append(entry_id)

    # ── the server has trouble ────────────────────────────────────────────────────────────────────────────────

    @rule(group=_groups, name=_names, luck=st.integers(0, 3))
    def the_group_vanishes_or_is_registered(self, group: str, name: str, luck: int) -> None:
        is_there = self._model.groups[group].is_there
        if is_there and luck == 3:
            self._subject.lose_group(_STREAM, group)
            self._model.lose(group)
            return
        found = self._call(self._transport.register(self._subscription(name, group)))
        assert found.created is not is_there
        if found.created:
            self._model.make_again(group)

    @rule(group=_groups)
    def the_indexes_are_lost_and_mended(self, group: str) -> None:
        mend = self._transport.recovery.mend
        if self._is_missing(group, lambda: self._call(mend(_STREAM, group))):
            return
        assert self._call(mend(_STREAM, group)) == 0
        self._subject.lose_indexes(_STREAM, group)
        known = self._model.groups[group]
        reserved = [entry_id for entry_id, held in known.pending.items() if held.owner in (PARKED, WAITING)]
        assert self._call(mend(_STREAM, group)) == len(reserved)
        for entry_id in reserved:
            known.park(entry_id, due=True)

    @rule(luck=st.integers(0, 9))
    def the_server_forgets_its_scripts_or_restarts(self, luck: int) -> None:
        self._subject.forget_scripts()
        if luck == 9 and not self._restarted:
            self._restarted = True
            self._subject.restart()
            # What is asked on the old connection fails; what is asked next is answered on a new one.
            self._call(self._transport.close())

    # ── what holds after every step ───────────────────────────────────────────────────────────────────────────

    @invariant()
    def the_server_has_pending_what_the_model_has(self) -> None:
        for name, group in self._model.groups.items():
            if group.is_there and self._model.ever:
                known = {entry_id: (held.owner, held.deliveries) for entry_id, held in group.pending.items()}
                assert self._subject.pending(_STREAM, name) == known

    @invariant()
    def dead_letters_are_all_there(self) -> None:
        letters = self._call(self._transport.dead_letters.page(_STREAM, after="", limit=1000))
        places = [(letter.group, letter.entry_id) for letter in letters]
        assert sorted(places) == sorted(self._model.letters.elements())

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, coroutine: Coroutine[Any, Any, _Found]) -> _Found:
        return self._loop.run_until_complete(coroutine)

    def _owner(self, name: str) -> str:
        return f"{name}{self._lives[name]}"

    @staticmethod
    def _subscription(name: str, group: str) -> Subscription:
        return Subscription(stream=_STREAM, group=group, handles=_HANDLES[name])

    def _fetch(self, group: str, owner: str, count: int) -> list[Delivery]:
        return self._call(self._transport.fetch(group, owner, [_STREAM], count=count, wait=0))

    def _settle(self, chosen: list[tuple[Delivery, Any]]) -> None:
        batch: list[tuple[Delivery, Outcome]] = []
        for delivery, outcome in chosen:
            name = f"{delivery.group}-{delivery.entry_id}-{len(self._model.emitted)}-{len(batch)}"
            batch.append((delivery, outcome(name) if callable(outcome) else outcome))
        verdicts = self._call(self._transport.settle(batch))
        assert verdicts == [self._model.settle(delivery, outcome) for delivery, outcome in batch]

    def _is_missing(self, group: str, ask: Callable[[], object]) -> bool:
        """Whether the group is gone; then whatever is asked of it fails, aloud."""
        if self._model.groups[group].is_there:
            return False
        with pytest.raises(TransportError):
            ask()
        return True

    def _hand_over(self, group: str, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            held = self._model.groups[group].pending[delivery.entry_id]
            assert (delivery.owner, delivery.deliveries) == (held.owner, held.deliveries)
            assert (delivery.deliveries, delivery.failures, delivery.uncharged) == held.counts
        self._given += deliveries

    def _pick(self, pick: int) -> Delivery:
        """One of the latest deliveries, or any."""
        return self._given[-1 - pick % len(self._given)]

    def _entries(self, picks: set[int]) -> list[str]:
        return sorted({self._pick(pick).entry_id for pick in picks}) if self._given else []

    def _holds(self, delivery: Delivery) -> bool:
        group = self._model.groups[delivery.group]
        return group.is_there and group.holds(delivery)
