"""What must hold at the end of a run: the account of the oracle against what stands on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from streamtask import envelope as envelopes
from streamtask.transport.memory import MemoryStore
from streamtask.transport.memory.log import ZERO, Entry, Group, id_text
from streamtask.transport.memory.store import StreamState
from streamtask.transport.values import Dead, Retry, Verdict
from tests.simulation import program
from tests.simulation.options import Options
from tests.simulation.oracle import Oracle, Place

#: Faults after which an event that runs may run once more: its worker dies, is thought dead, is asked to end, acts on
#: what it asked for long ago, or the server forgets.
_RUNS_AGAIN = {"stopped_every", "killed_every", "replaced_every", "command_late", "failover_every", "forgets_every"}


def broken(oracle: Oracle, store: MemoryStore, options: Options, *, finished: bool) -> list[str]:
    """Every promise that was not kept. `finished`: all is settled, or should be."""
    return [
        *oracle.wrong,
        *_published(oracle, store),
        *_invented(oracle),
        *_committed_twice(store),
        *_effects(oracle, store),
        *_charged(oracle),
        *(fault for place in program.PLACES for fault in _handled(oracle, store, *place, finished=finished)),
        *_ran_again(oracle, options),
        *_out_of_order(oracle, store),
    ]


def _published(oracle: Oracle, store: MemoryStore) -> Iterator[str]:
    """What was acknowledged to a publisher stands in the stream, or in the schedule."""
    there = set(_numbers(store.find("jobs")))
    for n, sent in oracle.sent.items():
        if sent.returned is not None and not sent.is_excused and n not in there:
            yield f"lost: {n} ({sent.kind}) was published and stands nowhere"


def _invented(oracle: Oracle) -> Iterator[str]:
    for n, place in oracle.begun:
        if n not in oracle.sent:
            yield f"invented: {n} was handled in {place} and never sent"


def _committed_twice(store: MemoryStore) -> Iterator[str]:
    """An event stands in its stream once, whoever published it how often."""
    for stream, state in store.streams.items():
        ids = Counter(_envelope(entry).event_id for entry in _entries(state))
        yield from (f"committed twice: {event_id} stands {n} times in {stream}" for event_id, n in ids.items() if n > 1)


def _effects(oracle: Oracle, store: MemoryStore) -> Iterator[str]:
    """What emits has emitted if it is done, and once for each key where it is de-duplicated."""
    made = Counter(_numbers(store.find("made")))
    keys = Counter(n % program.KEYS for n in made.elements() if oracle.sent[n].kind == "keyed")
    yield from (f"committed twice: key {key} has {n} sets of effects" for key, n in keys.items() if n > 1)
    for entry in _entries(store.find("jobs")):
        n = _number(_envelope(entry))
        kind = oracle.sent[n].kind
        for taken in oracle.taken.get(Place("jobs", "work", id_text(entry.id)), ()):
            if taken.is_final and not isinstance(taken.outcome, Dead):
                if kind == "emitting" and not made[n]:
                    yield f"lost: {n} is done and what it emitted stands nowhere"
                if kind == "keyed" and not keys[n % program.KEYS]:
                    yield f"lost: key {n % program.KEYS} is done and has no effects"
                if kind == "keyed" and taken.verdict is Verdict.SETTLED and not made[n]:
                    yield f"lost: {n} is done, no duplicate, and what it emitted stands nowhere"


def _charged(oracle: Oracle) -> Iterator[str]:
    """Failures are counted, by the server, and nothing else is taken for one."""
    for place, taken in oracle.taken.items():
        failures = sum(isinstance(each.outcome, Retry) and each.outcome.failed for each in taken)
        if failures >= program.ATTEMPTS:
            yield f"charged: {place} was tried again after {failures} failures"
        for each in taken:
            if isinstance(each.outcome, Dead) and each.outcome.reason == "max_attempts":
                if failures != program.ATTEMPTS - 1:
                    yield f"charged: {place} was given up after {failures + 1} failures"
            elif isinstance(each.outcome, Dead) and each.outcome.reason != "worker_lost":
                yield f"charged: {place} was given up: {each.outcome.reason}"


def _handled(oracle: Oracle, store: MemoryStore, stream: str, group: str, *, finished: bool) -> Iterator[str]:
    """What left a group was handled in it or is a dead letter; at the end, everything has."""
    state = store.find(stream)
    reading = state.log.groups.get(group) or Group(ZERO)
    letters = {letter.entry_id for letter in state.dead.values() if letter.group == group}
    for entry in _entries(state):
        n, entry_id = _number(_envelope(entry)), id_text(entry.id)
        name = f"{n} ({oracle.sent[n].kind}) in {stream}/{group}"
        if entry.id > reading.last_delivered or entry.id in reading.pending:
            if finished:
                yield f"not finished: {name}: {reading.pending.get(entry.id, 'unread')}"
        elif not any(each.is_final for each in oracle.taken.get(Place(stream, group, entry_id), ())):
            yield f"lost: {name} was acked and nobody has settled it"
        elif entry_id not in letters and not _has_run(oracle, n, stream, group):
            yield f"lost: {name} was acked and no handler has returned for it"
    if finished and state.delayed:
        yield f"not finished: {len(state.delayed)} events of {stream} are due and not promoted"


def _has_run(oracle: Oracle, n: int, stream: str, group: str) -> bool:
    place = f"{stream}/{group}"
    if oracle.sent[n].kind == "keyed" and place == "jobs/work":
        # Or another one of its key.
        return any(oracle.handled[m, place] for m in oracle.sent if m % program.KEYS == n % program.KEYS)
    return oracle.handled[n, place] > 0


def _ran_again(oracle: Oracle, options: Options) -> Iterator[str]:
    """A living worker keeps its events, however long it takes and whatever becomes of the server."""
    if _RUNS_AGAIN & set(options.faults.names) or any(sent.kind == "poison" for sent in oracle.sent.values()):
        return
    for (n, place), runs in oracle.begun.items():
        most = program.runs_of(n, oracle.sent[n].kind, place)
        if runs > most:
            yield f"ran again: {n} ({oracle.sent[n].kind}) ran {runs} times in {place}, and nobody had died"


def _out_of_order(oracle: Oracle, store: MemoryStore) -> Iterator[str]:
    """Of one kind, nothing becomes of an event before the one ahead of it is done or dead."""
    ahead: dict[str, tuple[int, float]] = {}
    for entry in _entries(store.find("jobs")):
        n = _number(_envelope(entry))
        kind = oracle.sent[n].kind
        taken = oracle.taken.get(Place("jobs", "order", id_text(entry.id)), ())
        before, done = ahead.get(kind, (n, 0.0))
        if any(each.moment < done for each in taken):
            yield f"out of order: {n} ({kind}) began before {before} was done"
        ahead[kind] = n, next((each.moment for each in taken if each.is_final), float("inf"))


def _entries(state: StreamState) -> list[Entry]:
    return state.log.after(ZERO)


def _numbers(state: StreamState) -> Iterator[int]:
    """The events of a stream, those that are not due yet as well."""
    yield from (_number(_envelope(entry)) for entry in _entries(state))
    yield from (_number(envelopes.decode(delayed.item.body)) for delayed in state.delayed.values())


def _number(envelope: envelopes.Envelope) -> int:
    return int(envelope.payload["n"])


def _envelope(entry: Entry) -> envelopes.Envelope:
    return envelopes.decode(entry.field(b"envelope") or b"")
