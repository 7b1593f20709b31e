"""Where one event has been: its envelope, where it is in every group, its dead letters, and what it caused.

Redis has no index of event ids, so that an event is looked for from the newest entry of each stream back, through so
many entries and no more; the answer says whether it was cut short. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamtask.envelope import Envelope
from streamtask.errors import EnvelopeError, NotFoundError
from streamtask.inspector import Inspector
from streamtask.references import EntryReference
from streamtask.rows import moment, told_progress
from streamtask.transport.values import DeadLetter, Delivery

#: Entries that one round trip brings.
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one entry is in one group."""

    stream: str
    group: str
    entry_id: str
    #: unread, running, retrying, waiting, abandoned, done, skipped (none of the group's types) or dead.
    state: str
    consumer: str | None = None
    #: Begun so far; None where the group keeps no record of it (any more).
    attempts: int | None = None
    deliveries: int | None = None
    due_in_ms: int | None = None
    error: str | None = None
    #: `fraction` and `message`, where its handler has said how far it is.
    progress: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caused:
    """An event that was emitted by a handler of this one. Not in a stream yet, where it has a due time."""

    stream: str
    entry_id: str | None
    event_id: str
    event_type: str
    due_in_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """All that is known of one event."""

    event_id: str | None
    event_type: str | None
    stream: str
    #: None: it is not due yet.
    entry_id: str | None
    #: None where the entry is no envelope; `error` says why then.
    envelope: Mapping[str, object] | None
    error: str | None
    due_in_ms: int | None = None
    groups: Sequence[Standing] = ()
    #: Copies that were handed to one group again.
    copies: Sequence[Standing] = ()
    dead: Sequence[DeadLetter] = ()
    caused: Sequence[Caused] = ()
    #: False: there is more than was looked through.
    complete: bool = True


@dataclass(slots=True)
class _Search:
    """What was found on the way."""

    event_id: str | None
    #: Of the entry, where it is known: nothing that concerns it is older.
    origin: Delivery | None = None
    copies: list[Delivery] = field(default_factory=list)
    caused: list[Caused] = field(default_factory=list)
    scheduled: tuple[str, int, Sequence[bytes]] | None = None
    dead: list[DeadLetter] = field(default_factory=list)
    complete: bool = True

    @property
    def oldest_ms(self) -> int:
        """No entry below this moment is of interest."""
        return 0 if self.origin is None else _ms(self.origin.entry_id)

    def take(self, entry: Delivery, envelope: Envelope | None) -> None:
        """Look at one entry of a stream."""
        if envelope is None or self.event_id is None:
            return
        if envelope.event_id == self.event_id:
            if entry.only is not None:
                self.copies.append(entry)
            elif self.origin is None or _ms(entry.entry_id) < _ms(self.origin.entry_id):
                self.origin = entry
        elif envelope.causation_id == self.event_id and entry.only is None:
            self.caused.append(
                Caused(
                    stream=entry.stream,
                    entry_id=entry.entry_id,
                    event_id=envelope.event_id,
                    event_type=envelope.event_type,
                )
            )


async def follow(inspector: Inspector, event: str | EntryReference, *, depth: int) -> Trail:
    """Follow an event, given its id or its entry, looking through `depth` entries of each stream.

    Raises:
        NotFoundError: it was not found.
    """
    search = _Search(event) if isinstance(event, str) else await _start(inspector, event)
    streams = await inspector.streams()
    for name in streams:
        await _look_through(inspector, search, name, depth)
    for name in streams:
        await _look_ahead(inspector, search, name, depth)
        await _look_among_the_dead(inspector, search, name, depth)
    return await _told(inspector, search, event, depth)


async def _start(inspector: Inspector, entry: EntryReference) -> _Search:
    await inspector.streams(entry.stream)
    fields = await inspector.inspection.entry(entry.stream, entry.entry_id)
    if fields is None:
        raise NotFoundError(
            f"there is no entry {entry.entry_id} in stream {entry.stream!r}: there never was, or it was trimmed"
        )
    origin = Delivery(entry.stream, "", entry.entry_id, "", fields)
    envelope = inspector.read(*entry, fields)
    return _Search(envelope.event_id if envelope else None, origin)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _look_through(inspector: Inspector, search: _Search, stream: str, depth: int) -> None:
    """The entries of a stream, from the newest back."""
    before, left = "", depth
    while left > 0:
        page = await inspector.inspection.newest(stream, before=before, limit=min(_PAGE, left))
        for entry in page:
            if _ms(entry.entry_id) < search.oldest_ms:
                return
            search.take(entry, inspector.read(stream, entry.entry_id, entry.fields))
        left -= len(page)
        if len(page) < _PAGE:
            break
        before = page[-1].entry_id
    if left <= 0:
        search.complete = False


async def _look_ahead(inspector: Inspector, search: _Search, stream: str, depth: int) -> None:
    """The events that are not due yet."""
    if inspector.transport.schedule is None or search.event_id is None:
        return
    for waiting in await inspector.transport.schedule.scheduled(stream, limit=depth):
        fields, due = waiting["fields"], int(str(waiting["due_in_ms"]))
        words = fields if isinstance(fields, list) else []
        envelope = inspector.read(stream, "", words)
        if waiting["event_id"] == search.event_id:
            search.scheduled = (stream, due, words)
        elif envelope is not None and envelope.causation_id == search.event_id:
            search.caused.append(
                Caused(
                    stream=stream,
                    entry_id=None,
                    event_id=envelope.event_id,
                    event_type=envelope.event_type,
                    due_in_ms=due,
                )
            )


async def _look_among_the_dead(inspector: Inspector, search: _Search, stream: str, depth: int) -> None:
    """The dead letters of a stream, the oldest that may concern the event first."""
    if inspector.transport.dead_letters is None:
        return
    entries = {(entry.stream, entry.entry_id) for entry in (search.origin, *search.copies) if entry is not None}
    after, left = f"{search.oldest_ms - 1}-0" if search.oldest_ms else "", depth
    while left > 0:
        page = await inspector.transport.dead_letters.page(stream, after=after, limit=min(_PAGE, left))
        search.dead += [
            letter
            for letter in page
            if (letter.stream, letter.entry_id) in entries or (letter.event_id and letter.event_id == search.event_id)
        ]
        left -= len(page)
        if len(page) < _PAGE:
            return
        after = page[-1].dead_id
    search.complete = False


# ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _told(inspector: Inspector, search: _Search, event: str | EntryReference, depth: int) -> Trail:
    place = _place(search)
    if place is None:
        if search.complete:
            raise NotFoundError(f"there is no event {event}: it was never published here, or it was trimmed")
        raise NotFoundError(f"no event {event} is among the newest {depth} of each stream; --depth looks further")
    envelope, error = _decoded(inspector, place)
    standings = [
        standing
        for entry in (search.origin, *search.copies)
        if entry is not None
        for standing in await _standings(inspector, search, entry, envelope)
    ]
    of_origin = search.origin.entry_id if search.origin else ""
    return Trail(
        event_id=envelope.event_id if envelope else None,
        event_type=envelope.event_type if envelope else None,
        stream=place.stream,
        entry_id=place.entry_id or None,
        envelope=None if envelope is None else plain(envelope),
        error=error,
        due_in_ms=search.scheduled[1] if search.scheduled else None,
        groups=[standing for standing in standings if standing.entry_id == of_origin],
        copies=[standing for standing in standings if standing.entry_id != of_origin],
        dead=search.dead,
        caused=search.caused,
        complete=search.complete,
    )


def _place(search: _Search) -> Delivery | None:
    """The best copy of the event that there is: the entry, one of a replay, a dead letter, or what is not due yet."""
    if search.origin is not None:
        return search.origin
    if search.copies:
        return search.copies[-1]
    for letter in search.dead:
        return Delivery(letter.stream, "", letter.entry_id, "", letter.fields)
    if search.scheduled is not None:
        stream, _, fields = search.scheduled
        return Delivery(stream, "", "", "", fields)
    return None


def _decoded(inspector: Inspector, entry: Delivery) -> tuple[Envelope | None, str | None]:
    try:
        return inspector.decode(entry), None
    except EnvelopeError as error:
        return None, str(error)


async def _standings(
    inspector: Inspector, search: _Search, entry: Delivery, envelope: Envelope | None
) -> list[Standing]:
    found = []
    for told in await inspector.inspection.groups(entry.stream):
        group, interest = str(told["group"]), told["interest"]
        if entry.only not in (None, group):
            continue
        letter = next((dead for dead in search.dead if (dead.group, dead.entry_id) == (group, entry.entry_id)), None)
        if letter is not None:
            found.append(_buried(letter))
            continue
        types = {str(each).rpartition(":")[0] for each in interest} if isinstance(interest, list) else set()
        state = await inspector.inspection.state(entry.stream, group, entry.entry_id)
        passed_over = envelope is not None and envelope.event_type not in types
        found.append(_standing(entry, group, state, passed_over=passed_over))
    return found


def _buried(letter: DeadLetter) -> Standing:
    return Standing(
        stream=letter.stream,
        group=letter.group,
        entry_id=letter.entry_id,
        state="dead",
        attempts=letter.attempts,
        deliveries=letter.deliveries,
        error=letter.error or None,
    )


def _standing(entry: Delivery, group: str, told: Mapping[str, object], *, passed_over: bool) -> Standing:
    state = str(told["state"])
    consumer, failures, due = told.get("consumer"), told.get("failures"), told.get("due_in_ms")
    deliveries = told.get("deliveries")
    begun = int(state in ("running", "abandoned"))
    return Standing(
        stream=entry.stream,
        group=group,
        entry_id=entry.entry_id,
        state="skipped" if state == "done" and passed_over else state,
        consumer=None if consumer is None else str(consumer),
        attempts=failures + begun if isinstance(failures, int) else None,
        deliveries=deliveries if isinstance(deliveries, int) else None,
        due_in_ms=due if isinstance(due, int) else None,
        error=str(told.get("error") or "") or None,
        progress=told_progress(told.get("progress")),
    )


def plain(envelope: Envelope) -> dict[str, object]:
    """An envelope as it stands in the stream, in plain objects; a payload that cannot be parsed is its text."""
    try:
        payload: object = envelope.payload
    except EnvelopeError:
        payload = envelope.payload_bytes.decode("utf-8", "backslashreplace")
    told: dict[str, object] = {
        "schema_version": envelope.schema_version,
        "event_id": envelope.event_id,
        "event_type": envelope.event_type,
        "source": envelope.source,
        "timestamp": moment(envelope.timestamp),
        "trace_id": envelope.trace_id,
        "payload": payload,
    }
    for name in ("span_id", "causation_id", "key", "headers"):
        if (value := getattr(envelope, name)) is not None:
            told[name] = value
    return told


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
