"""A state machine that drives the gates of an engine, and holds what they let through to what they promise.

`TransportMachine` knows no gates: its entries go through none. Here they all do. There is no model of who is let
through when, but a book of what is out, and the promises: of an ordered key only the entry ahead of all others, of
another one no more at a time than its limit, and in the end nothing that could run is left behind.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from streamtask.transport.values import Dead, Delivery, Done, Gate, Release, Retry, Subscription, Verdict, Wait
from tests.conformance.engines import ORDER_PLACED, order, text_of
from tests.simulation.model import LONG
from tests.simulation.subjects import Subject

_STREAM, _GROUP = "orders", "shipping"
_OWNERS = ("a", "b", "c")
_LIMIT = 2
_GATES = {
    True: Gate(name="OrderPlaced", types=("OrderPlaced",), path=("key",), ordered=True),
    False: Gate(name="OrderPlaced", types=("OrderPlaced",), path=("key",), limit=_LIMIT),
}
_MANY = 1000

_Found = TypeVar("_Found")
_owners = st.sampled_from(_OWNERS)
_picks = st.integers(min_value=0, max_value=100)
_outcomes = st.sampled_from(
    [
        Done(),
        Done(),
        Done(),
        Dead(reason="rejected"),
        Retry(0.0),
        Retry(LONG),
        Release(),
        Wait("OrderPlaced", "v9", LONG),
    ]
)


class GateMachine(RuleBasedStateMachine):
    """Three owners who read, settle, die and mend."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._subject = subject
        self._transport = self._call(subject.transport())
        self._ordered = False
        #: Key of each entry that is not done, in the order of the stream.
        self._left: dict[str, str] = {}
        #: Who has what, as far as the server has told.
        self._held: dict[str, Delivery] = {}
        #: Parked or waiting for longer than any test.
        self._put_off: set[str] = set()

    def teardown(self) -> None:
        try:
            self._nothing_is_left_behind()
        finally:
            self._call(self._subject.close())
            self._call(asyncio.sleep(0))
            self._loop.close()

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        self._ordered = ordered
        self._call(self._transport.register(self._subscription()))

    @rule(keys=st.lists(st.sampled_from("xyz"), min_size=1, max_size=6))
    def publish(self, keys: list[str]) -> None:
        stored = self._call(self._transport.publish([order(key, key=key) for key in keys]))
        self._left |= dict(zip(map(str, stored), keys, strict=True))

    @rule(
        keys=st.lists(st.sampled_from("xy"), min_size=2, max_size=4), owner=_owners, pick=st.tuples(_picks, _outcomes)
    )
    def work(self, keys: list[str], owner: str, pick: tuple[int, Any]) -> None:
        """What happens all the time: hypothesis leaves rules out at random, and what the others need must be there."""
        self.publish(keys)
        self.fetch(owner, len(keys))
        self.settle([pick])
        self.claim(owner, len(keys))

    @rule(owner=_owners, count=st.integers(1, 5))
    def fetch(self, owner: str, count: int) -> None:
        self._let_through(self._call(self._transport.gates.fetch(self._subscription(), owner, count=count, wait=0)))

    @rule(owner=_owners, count=st.integers(1, 5))
    def claim(self, owner: str, count: int) -> None:
        found = self._call(self._transport.recovery.claim(self._subscription(), owner, count=count))
        assert found.gone == []
        self._let_through([*found.deliveries])

    @rule(picks=st.lists(st.tuples(_picks, _outcomes), min_size=1, max_size=4))
    def settle(self, picks: list[tuple[int, Any]]) -> None:
        # No precondition: what is held may depend on which of two things fell into one millisecond, and hypothesis
        # takes a choice of rules that it cannot repeat for an error.
        if not self._held:
            return
        held = list(self._held.values())
        chosen = {held[pick % len(held)]: outcome for pick, outcome in picks}
        owner = next(iter(chosen)).owner
        batch = [(delivery, outcome) for delivery, outcome in chosen.items() if delivery.owner == owner]
        assert self._call(self._transport.settle(batch)) == [Verdict.SETTLED] * len(batch)
        for delivery, outcome in batch:
            del self._held[delivery.entry_id]
            if isinstance(outcome, Done | Dead):
                del self._left[delivery.entry_id]
            elif isinstance(outcome, Wait) or outcome.delay:
                self._put_off.add(delivery.entry_id)

    @rule(owner=_owners)
    def die(self, owner: str) -> None:
        mine = [entry_id for entry_id, delivery in self._held.items() if delivery.owner == owner]
        assert self._call(self._transport.recovery.hand_back(_STREAM, _GROUP, owner)) == len(mine)
        for entry_id in mine:
            del self._held[entry_id]

    @rule(lost=st.booleans())
    def mend(self, lost: bool) -> None:
        if lost:
            self._subject.lose_indexes(_STREAM, _GROUP)
            # What was parked is due with its index gone.
            self._put_off.clear()
        self._call(self._transport.recovery.mend(_STREAM, _GROUP))
        assert self._call(self._transport.recovery.mend(_STREAM, _GROUP)) == 0

    # ── what has to hold ──────────────────────────────────────────────────────────────────────────────────────

    def _let_through(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            assert delivery.entry_id not in self._held
            # Nothing here is a crash but `die`, nor a failure but a retry: queueing is neither.
            assert delivery.deliveries - delivery.failures - delivery.uncharged >= 1
            self._held[delivery.entry_id] = delivery
            self._put_off.discard(delivery.entry_id)
            key = self._left[delivery.entry_id]
            assert text_of(delivery) == key
            if self._ordered:
                assert delivery.entry_id == next(each for each, its in self._left.items() if its == key)
        out: dict[str, int] = defaultdict(int)
        for entry_id in self._held:
            out[self._left[entry_id]] += 1
        assert max(out.values(), default=0) <= (1 if self._ordered else _LIMIT)

    def _nothing_is_left_behind(self) -> None:
        """Everything runs but what is put off, and, where there is an order, what is behind it."""
        for _ in range(3 * len(self._left) + 3):
            for owner in _OWNERS:
                self.fetch(owner, _MANY)
                self.claim(owner, _MANY)
                mine = [(each, Done()) for each in self._held.values() if each.owner == owner]
                assert self._call(self._transport.settle(mine)) == [Verdict.SETTLED] * len(mine)
                for delivery, _ in mine:
                    del self._left[delivery.entry_id]
                    del self._held[delivery.entry_id]
        ahead = {key: entry_id for entry_id, key in reversed(self._left.items())}
        for entry_id, key in self._left.items():
            assert entry_id in self._put_off or (self._ordered and ahead[key] in self._put_off)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _subscription(self) -> Subscription:
        gates = (_GATES[self._ordered],)
        return Subscription(stream=_STREAM, group=_GROUP, handles=frozenset({ORDER_PLACED}), gates=gates)

    def _call(self, coroutine: Coroutine[Any, Any, _Found]) -> _Found:
        return self._loop.run_until_complete(coroutine)
