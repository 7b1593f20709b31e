"""What is known of one service's configuration, and what may become of it. Pure: reads no clock, does no I/O.

One value, changed only as a whole by whoever has read what stands. So of two who want the next version at once one is
first, the other comes after it, and nobody sees a half of either.

A source (a file, a hash, a page) may hold what is `known` without that being news: what it held when it was last
looked at, and what we are about to write there. Everything else that is found in it is somebody's change.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from streamtask_contrib.config_sync.documents import Form


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Facts(_Value):
    """A version, without its bytes."""

    number: int
    #: See `Sealing.checksum`.
    checksum: str
    #: SHA-256 of the bytes, in hex: told to nobody.
    digest: str
    form: Form
    #: Where it was read; of one that was restored, where it is to be written.
    source: str
    taken_at: datetime
    #: The version that it is a copy of.
    restored_from: int | None = None
    #: Of the `ConfigRollbackRequested` that it came from.
    request_id: str = ""
    #: Names the record of its bytes.
    content: str
    #: What was hidden in it beside what always is; see `redacted`.
    patterns: tuple[str, ...] = ()


class State(_Value):
    """All that is known of one service's configuration, but for the bytes."""

    service: str
    #: For digests of secrets, in hex; see `Sealing`.
    key: str = Field(repr=False)
    #: Those that are kept, the head last.
    versions: tuple[Facts, ...] = ()
    #: Numbers whose snapshots may not have been published yet, in order.
    unpublished: tuple[int, ...] = ()
    #: The bytes of versions that had to make room, which may still be stored.
    dropped: tuple[str, ...] = ()
    #: Source → digests of what it may hold.
    known: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    #: The source that the head has still to be written to; empty: none.
    unwritten: str = ""
    #: Source → what is wrong with what it holds, for people.
    troubles: dict[str, str] = Field(default_factory=dict)
    #: Source → why it does not hold the head, and will not before somebody changes it.
    behind: dict[str, str] = Field(default_factory=dict)

    @property
    def head(self) -> Facts | None:
        """What services are to run with; None before the first version."""
        return self.versions[-1] if self.versions else None

    def version(self, number: int) -> Facts | None:
        """A version that is kept."""
        return next((facts for facts in self.versions if facts.number == number), None)

    def from_request(self, request_id: str) -> Facts | None:
        """The version that a request for a rollback has made."""
        return next((facts for facts in self.versions if facts.request_id == request_id), None)

    def next_number(self) -> int:
        """Of the version that comes next."""
        return self.head.number + 1 if self.head else 1

    def is_known(self, source: str, digest: str) -> bool:
        """Whether this is nothing new for this source to hold."""
        return digest in self.known.get(source, ())

    # ── what becomes of it ────────────────────────────────────────────────────────────────────────────────────

    def taken(self, facts: Facts, digest: str, *, keep: int) -> State:
        """A source holds something new, and that is the head now, whatever had still to be written there."""
        return self._with_head(facts, keep).written(facts.source, digest)

    def restored(self, facts: Facts, *, keep: int) -> State:
        """An earlier version is the head again, and has to be written where the head comes from."""
        return self._with_head(facts, keep, unwritten=facts.source)

    def announced(self, source: str, digest: str) -> State:
        """A source is about to be written to."""
        return self._changed(known=self.known | {source: tuple({*self.known.get(source, ()), digest})})

    def written(self, source: str, digest: str, *, behind: str = "") -> State:
        """A source holds this, and there is nothing to be written to it any more.

        `behind`: why it is not the head; it stays so until somebody changes it.
        """
        others = _without(self.behind, source)
        return self._changed(
            known=self.known | {source: (digest,)},
            unwritten="" if self.unwritten == source else self.unwritten,
            troubles=_without(self.troubles, source),
            behind=others | {source: behind} if behind else others,
        )

    def troubled(self, source: str, trouble: str) -> State | None:
        """Know what is wrong with a source; nothing, where it is empty. None where that is known."""
        if self.troubles.get(source, "") == trouble:
            return None
        others = _without(self.troubles, source)
        return self._changed(troubles=others | {source: trouble} if trouble else others)

    def done(self, published: tuple[int, ...], dropped: tuple[str, ...]) -> State | None:
        """Know that these snapshots are published, and these bytes dropped; None where that is known."""
        unpublished = tuple(number for number in self.unpublished if number not in published)
        left = tuple(name for name in self.dropped if name not in dropped)
        is_known = (unpublished, left) == (self.unpublished, self.dropped)
        return None if is_known else self._changed(unpublished=unpublished, dropped=left)

    def _with_head(self, facts: Facts, keep: int, **changes: object) -> State:
        versions = (*self.versions, facts)
        return self._changed(
            versions=versions[-keep:],
            dropped=(*self.dropped, *(each.content for each in versions[:-keep])),
            unpublished=(*self.unpublished, facts.number),
            **changes,
        )

    def _changed(self, **changes: object) -> State:
        return self.model_copy(update=changes)


def _without(texts: dict[str, str], source: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if name != source}
