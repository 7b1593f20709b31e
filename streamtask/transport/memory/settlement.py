"""What each outcome does to an entry, behind the fence.

Called with the store's lock held, so that one outcome is one atomic step.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from streamtask.lanes import home
from streamtask.transport.memory.log import Entry, EntryId, Group, id_text, parse_id
from streamtask.transport.memory.store import WAITING, Counts, MemoryStore, Skipped, StreamState
from streamtask.transport.memory.workflows import go_on, is_over
from streamtask.transport.values import (
    Dead,
    DeadLetter,
    Delivery,
    Done,
    Outcome,
    Release,
    Retry,
    Skip,
    Together,
    Verdict,
    Wait,
)

#: Fields that a copy for one group carries beside the original's.
_COPY_FIELDS = frozenset({b"only", b"replay"})


def holds(group: Group | None, delivery: Delivery) -> bool:
    """Whether the fence holds: the entry is still pending with this owner, and in this delivery of it."""
    pending = group.pending.get(parse_id(delivery.entry_id)) if group is not None else None
    return pending is not None and (pending.owner, pending.deliveries) == (delivery.owner, delivery.deliveries)


def settle(store: MemoryStore, delivery: Delivery, outcome: Outcome, now: float) -> Verdict:
    """Commit one outcome, or change nothing at all."""
    state = store.find(delivery.stream)
    group = state.log.groups.get(delivery.group)
    if isinstance(outcome, Together):
        return _together(store, state, delivery, outcome, now)
    if group is None or not holds(group, delivery):
        return Verdict.LOST
    entry_id = parse_id(delivery.entry_id)
    ledger = state.ledger(delivery.group)
    match outcome:
        case Done():
            return _done(store, state, delivery, outcome, now)
        case Retry() | Release():
            _park(state, delivery, outcome, now)
        case Wait():
            ledger.counts_of(entry_id).uncharged += 1
            group.give(entry_id, WAITING, now)
            ledger.waiting.setdefault((outcome.type, outcome.version), {})[entry_id] = now + outcome.timeout
            state.leave(delivery.group, entry_id, now, for_good=False)
        case Skip(event_type=event_type) if any(type_ == event_type for type_, _ in ledger.interest):
            wait = Wait(event_type, outcome.version, outcome.timeout)
            return settle(store, delivery, wait, now)
        case Skip(event_type=event_type):
            if event_type and delivery.only is None:
                ledger.skipped.setdefault(event_type, Skipped(entry_id)).count += 1
            state.ack(delivery.group, entry_id, now)
        case Dead():
            _die(store, state, delivery, outcome, now)
    return Verdict.SETTLED


def _done(store: MemoryStore, state: StreamState, delivery: Delivery, outcome: Done, now: float) -> Verdict:
    marks, mark = store.stream(home(delivery.stream)).ledger(delivery.group).marks, outcome.mark
    verdict = Verdict.SETTLED
    if is_over(state, outcome.step, now) or (mark is not None and not mark.replace and marks.get(mark.name, now)):
        verdict = Verdict.DUPLICATE
    else:
        _store(store, delivery.stream, outcome, now)
        if mark is not None:
            marks.put(mark.name, value=True, until=now + mark.window, now=now)
    state.ack(delivery.group, parse_id(delivery.entry_id), now)
    return verdict


def _together(store: MemoryStore, state: StreamState, delivery: Delivery, outcome: Together, now: float) -> Verdict:
    group = state.log.groups.get(delivery.group)
    marks = store.stream(home(delivery.stream)).ledger(delivery.group).marks
    members = [(delivery, outcome.mark), *outcome.others]
    held = sum(holds(group, member) for member, _ in members)
    if not held:
        return Verdict.LOST
    duplicates = any(mark and not mark.replace and marks.get(mark.name, now) for _, mark in members)
    if held < len(members) or duplicates:
        return Verdict.TORN
    _store(store, delivery.stream, outcome, now)
    for member, mark in members:
        if mark is not None:
            marks.put(mark.name, value=True, until=now + mark.window, now=now)
        state.ack(delivery.group, parse_id(member.entry_id), now)
    return Verdict.SETTLED


def _store(store: MemoryStore, stream: str, outcome: Done | Dead | Together, now: float) -> None:
    """Store what an outcome leaves. The ack comes after it: an emit that cannot be stored leaves the entry pending."""
    for emit in outcome.emits:
        store.publish(emit, now)
    if isinstance(outcome, Together):
        return
    if outcome.result is not None:
        store.keep(stream, outcome.result, now)
    if outcome.step is not None:
        go_on(store, stream, outcome.step, now)


def _park(state: StreamState, delivery: Delivery, outcome: Retry | Release, now: float) -> None:
    entry_id = parse_id(delivery.entry_id)
    _count(state.ledger(delivery.group).counts_of(entry_id), outcome)
    state.park(delivery.group, entry_id, now + outcome.delay, now)
    if outcome.delay > 0:
        state.leave(delivery.group, entry_id, now, for_good=False)


def _count(counts: Counts, outcome: Retry | Release) -> None:
    """Note why the entry will be delivered once more."""
    if isinstance(outcome, Retry) and outcome.error:
        counts.error = outcome.error
    if isinstance(outcome, Retry) and outcome.failed:
        counts.failures += 1
    elif isinstance(outcome, Retry) or not outcome.charged:
        counts.uncharged += 1


def _die(store: MemoryStore, state: StreamState, delivery: Delivery, outcome: Dead, now: float) -> None:
    if not is_over(state, outcome.step, now):
        _store(store, delivery.stream, outcome, now)
    _bury(state, delivery, outcome, now)
    state.ack(delivery.group, parse_id(delivery.entry_id), now)


def _bury(state: StreamState, delivery: Delivery, outcome: Dead, now: float) -> None:
    entry_id = parse_id(delivery.entry_id)
    dead_id = max((int(now * 1000), 0), (state.last_dead_id[0], state.last_dead_id[1] + 1))
    state.last_dead_id = dead_id
    state.dead[dead_id] = DeadLetter(
        dead_id=id_text(dead_id),
        stream=delivery.stream,
        group=delivery.group,
        entry_id=delivery.entry_id,
        event_id=outcome.event_id,
        event_type=outcome.event_type,
        reason=outcome.reason,
        error=outcome.error,
        traceback=outcome.traceback,
        attempts=outcome.attempts,
        deliveries=delivery.deliveries,
        worker=outcome.worker,
        first_seen=datetime.fromtimestamp(entry_id[0] / 1000, UTC),
        dead_at=datetime.fromtimestamp(now, UTC),
        fields=tuple(delivery.fields),
    )


def copy_for(group: str, fields: Sequence[bytes], generation: str) -> list[bytes]:
    """The fields of an entry again, for one group only; what an earlier copy had added is dropped."""
    copied: list[bytes] = []
    for index in range(0, len(fields) - 1, 2):
        if fields[index] not in _COPY_FIELDS:
            copied += fields[index : index + 2]
    return [*copied, b"only", group.encode(), b"replay", generation.encode()]


def delivery_of(state: StreamState, stream: str, group: str, entry: Entry) -> Delivery:
    """The delivery that the group's pending list records for an entry."""
    pending = state.log.groups[group].pending[entry.id]
    counts = state.ledger(group).counts.get(entry.id)
    return Delivery(
        stream,
        group,
        id_text(entry.id),
        pending.owner,
        entry.fields,
        deliveries=pending.deliveries,
        failures=counts.failures if counts else 0,
        uncharged=counts.uncharged if counts else 0,
    )


def take(state: StreamState, group: str, entry_id: EntryId, owner: str, now: float) -> Entry | None:
    """Claim a pending entry for an owner. None: it is gone from the stream, and now from the pending list too."""
    state.log.groups[group].claim(entry_id, owner, now)
    entry = state.log.get(entry_id)
    if entry is None:
        state.ack(group, entry_id, now)
    return entry
