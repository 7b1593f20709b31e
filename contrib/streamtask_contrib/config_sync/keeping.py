"""Keeping versions: what a source holds becomes one, an earlier one is restored, each is published once.

A version is committed by one swap of its service's state. What follows from it, the snapshot and what is written back
to the source, is written down in that same swap, and done by whoever looks next, if the one who began has died. The
steps of writing back, so that what we write is never taken for somebody's change:

1. the rollback's swap makes the version the head, and names the source as `unwritten`
2. a swap adds what is about to be written to what the source may hold
3. the source is written, if it still holds what was read, by the one who has its lease
4. a swap says that this, and nothing else, is what it holds
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from streamtask import Application, Reject
from streamtask_contrib.config_sync.documents import DocumentError, Form, canonical, parse
from streamtask_contrib.config_sync.redaction import Sealing
from streamtask_contrib.config_sync.sources.port import (
    ChangedError,
    MissingError,
    NotWritableError,
    Reading,
    Source,
    SourceError,
)
from streamtask_contrib.config_sync.state import Facts, State
from streamtask_contrib.config_sync.versions import Configs, Version, digest_of
from streamtask_contrib.events import ID, ConfigRollbackRequested, ConfigSnapshot

log = logging.getLogger(__name__)

#: The digest of a source that holds nothing.
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class _Document:
    """What a version is made of."""

    content: bytes = field(repr=False)
    form: Form
    values: dict[str, Any] = field(repr=False)
    #: See `Version.original`.
    original: bytes | None = field(repr=False)


class Keeper:
    """Makes versions. Any number of them may work at the same services at once."""

    def __init__(self, app: Application, *, keep: int, patterns: tuple[str, ...] = ()) -> None:
        """`keep`: versions of a service. `patterns`: what is secret beside what always is; see `redacted`."""
        self._app = app
        self._keep = keep
        self._patterns = patterns
        self.configs = Configs(app.records)

    # ── from a source ─────────────────────────────────────────────────────────────────────────────────────────

    async def look(self, source: Source, place: str, state: State, *, is_ours: Callable[[], bool]) -> None:
        """Bring a service and one of its sources together.

        `state`: as it was read before the source is. `is_ours`: whether the source may still be written from here.
        """
        service = state.service
        try:
            reading = await source.read(service)
        except SourceError as error:
            if isinstance(error, MissingError) and state.unwritten == place:
                await self._write_back(source, state, None, is_ours)
            else:
                await self._troubled(service, place, str(error))
            return
        if state.is_known(place, reading.digest):
            if state.unwritten == place:
                await self._write_back(source, state, reading, is_ours)
            else:
                await self._troubled(service, place, "")
            return
        try:
            values = parse(reading.content, reading.form)
        except DocumentError as error:
            if state.unwritten == place:
                # What nobody can read is what the rollback is to put right.
                await self._write_back(source, state, reading, is_ours)
            else:
                await self._troubled(service, place, str(error))
        else:
            await self._take(place, state, reading, values)

    async def _take(self, place: str, state: State, reading: Reading, values: dict[str, Any]) -> None:
        """Make a version of what somebody has written."""
        if state.head is not None and state.head.digest == digest_of(reading.content):
            # By hand, after a rollback that could not write it; or from a source that is new.
            await self._change(state, lambda now: now.written(place, reading.digest))
            return

        def taken(now: State, content: str) -> State | None:
            if not _is_as(now, state):
                return None
            return now.taken(self._facts(now, document, place, content), reading.digest, keep=self._keep)

        document = _Document(reading.content, reading.form, values, reading.original)
        made = await self._make(state.service, document, taken)
        if made is not None and made.head is not None:
            log.info("config.changed", extra={"service": made.service, "version": made.head.number, "source": place})

    async def _troubled(self, service: str, place: str, trouble: str) -> None:
        """Write down what is wrong with what a source holds, and say so once; nothing, where it is empty."""
        if await self.configs.change(service, lambda now: now.troubled(place, trouble)) is None:
            return
        if trouble:
            log.warning("config.unreadable", extra={"service": service, "source": place, "error": trouble})
        else:
            log.info("config.readable_again", extra={"service": service, "source": place})

    # ── back to an earlier version ────────────────────────────────────────────────────────────────────────────

    async def restore(self, request: ConfigRollbackRequested) -> None:
        """Make an earlier version the head again, as a new version. A request is fulfilled once.

        Raises:
            Reject: there is no such version.
        """
        service = request.service
        state = await self.configs.state(service) if re.fullmatch(ID, service) else None
        if state is None or not state.versions:
            await self._refuse(request, "nothing is known of this service")
        elif state.from_request(request.request_id) is None:
            version = await self.configs.get(service, request.to_version)
            if version is None:
                first, last = state.versions[0].number, state.versions[-1].number
                await self._refuse(request, f"it has no version {request.to_version}; kept are {first} to {last}")
            else:
                await self._restore(request, version)
        else:
            await self.publish(state)

    async def _restore(self, request: ConfigRollbackRequested, version: Version) -> None:
        def restored(now: State, content: str) -> State | None:
            if now.head is None or now.from_request(request.request_id) is not None:
                return None
            facts = self._facts(now, document, now.head.source, content)
            about = {"restored_from": version.number, "request_id": request.request_id}
            return now.restored(facts.model_copy(update=about), keep=self._keep)

        document = _Document(version.content, version.form, version.values, version.original)
        made = await self._make(version.service, document, restored)
        if made is not None and made.head is not None:
            told = {"service": made.service, "version": made.head.number, "restored_from": version.number}
            log.info("config.restored", extra=told | {"by": request.requested_by, "reason": request.reason})

    async def _refuse(self, request: ConfigRollbackRequested, reason: str) -> NoReturn:
        await self.configs.refuse(request.request_id, reason)
        raise Reject(f"no rollback of {request.service!r}: {reason}")

    async def _write_back(
        self, source: Source, state: State, reading: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        """Have a source hold the head. What goes wrong on the way is seen, and done, at the next look."""
        place, held = state.unwritten, reading.digest if reading else _NOTHING
        version = await self.configs.version(state.service, state.head) if state.head else None
        if version is None:
            return
        try:
            target = digest_of(source.rendered(version))
            if held != target:
                announced = await self._change(state, lambda now: now.announced(place, target))
                if announced is None:
                    return
                state = announced
                await source.write(state.service, version, reading, is_ours)
                held = await self._read_back(source, version, target)
        except (ChangedError, MissingError):
            return
        except NotWritableError as error:
            why = str(error)
            await self._change(state, lambda now: now.written(place, held, behind=why))
            log.warning("config.not_written", extra={"service": state.service, "source": place, "error": why})
        except SourceError as error:
            await self._troubled(state.service, place, str(error))
        else:
            await self._change(state, lambda now: now.written(place, held))

    async def _read_back(self, source: Source, version: Version, target: str) -> str:
        """The digest of what has just been written. A page may give it back in a form of its own."""
        reading = await source.read(version.service)
        if reading.digest != target and canonical(_values(reading)) != canonical(version.values):
            raise ChangedError("somebody else has changed it since")
        return reading.digest

    # ── what all versions have in common ──────────────────────────────────────────────────────────────────────

    async def publish(self, state: State) -> None:
        """Publish the snapshots that have not been yet, in order; and forget the bytes of what had to make room."""
        for number in state.unpublished:
            facts = state.version(number)
            if facts is None:
                continue  # it had to make room before anybody heard of it
            await self.configs.keep(facts.content)
            version = await self.configs.version(state.service, facts)
            if version is not None:
                await self._app.publish(_snapshot(version), dedup_key=f"{version.service}:{version.number}")
        for name in state.dropped:
            await self.configs.drop(name)
        await self.configs.change(state.service, lambda now: now.done(state.unpublished, state.dropped))

    async def _make(
        self, service: str, document: _Document, make: Callable[[State, str], State | None]
    ) -> State | None:
        """Store a document, make a version of it, and publish it; None where `make` wants none."""
        name = await self.configs.store(document.content, document.values, document.original)
        made = await self.configs.change(service, lambda now: make(now, name))
        if made is None:
            await self.configs.drop(name)
        else:
            await self.publish(made)
        return made

    def _facts(self, state: State, document: _Document, source: str, name: str) -> Facts:
        sealing = Sealing(bytes.fromhex(state.key), self._patterns)
        return Facts(
            number=state.next_number(),
            checksum=sealing.checksum(document.values),
            digest=digest_of(document.content),
            form=document.form,
            source=source,
            taken_at=datetime.now(UTC),
            content=name,
            patterns=self._patterns,
        )

    async def _change(self, state: State, change: Callable[[State], State]) -> State | None:
        """Change a state that is still as it was read; None where it is not."""
        return await self.configs.change(state.service, lambda now: change(now) if _is_as(now, state) else None)


def _is_as(now: State, read: State) -> bool:
    """Whether nothing has happened since that matters to who has read a source."""
    return (now.head, now.known, now.unwritten) == (read.head, read.known, read.unwritten)


def _values(reading: Reading) -> dict[str, Any]:
    try:
        return parse(reading.content, reading.form)
    except DocumentError as error:
        raise SourceError(str(error)) from None


def _snapshot(version: Version) -> ConfigSnapshot:
    return ConfigSnapshot(
        service=version.service,
        version=version.number,
        checksum=version.checksum,
        values=version.shown(),
        source=version.source,
        taken_at=version.taken_at,
    )
