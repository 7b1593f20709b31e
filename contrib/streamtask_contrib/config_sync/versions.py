"""The versions of every service's configuration, as the app's records have them: read by whoever wants to know.

What is stored: a record for each service (`State`), one for the bytes of each version that is kept, and one that lists
the services. The bytes are the source's own, secrets and all: whoever may read the broker may read them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from streamtask import Records, StreamtaskError
from streamtask_contrib.config_sync.documents import Form
from streamtask_contrib.config_sync.drifts import Drifts
from streamtask_contrib.config_sync.redaction import redacted
from streamtask_contrib.config_sync.state import Facts, State
from streamtask_contrib.events import ConfigDriftDetected

log = logging.getLogger(__name__)

#: Seconds that versions are kept: every record has an end, and a configuration has to outlive its worker by far.
KEPT: Final = 10 * 365 * 86_400.0
#: Seconds that bytes stand for which nobody has said that they are kept: their writer died, and so long no other came.
_UNCLAIMED: Final = 7 * 86_400.0
#: Seconds that a refused request for a rollback is remembered.
_REFUSED: Final = 86_400.0

_SERVICES, _STATE, _REASON = "configs", "state", "reason"
_BYTES, _ORIGINAL, _VALUES = "bytes", "original", "values"


class UnreadableStateError(StreamtaskError):
    """What is stored of a service is of a newer version of this package, or somebody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A configuration as it was read, with its secrets: `shown` is what others may see."""

    service: str
    number: int
    #: See `Sealing.checksum`.
    checksum: str
    content: bytes = field(repr=False)
    form: Form
    values: dict[str, Any] = field(repr=False)
    #: Where it was read; of one that was restored, where it is to be written.
    source: str
    taken_at: datetime
    #: The version that it is a copy of.
    restored_from: int | None = None
    #: What the source itself holds, where that is not `content`: the fields of a hash.
    original: bytes | None = field(default=None, repr=False)
    #: Names that are secrets here beside those that always are.
    patterns: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """The values, secrets hidden."""
        return redacted(self.values, self.patterns)


class Configs:
    """What is written down of configurations. Every method raises `TransportError` where the broker is away."""

    def __init__(self, records: Records) -> None:
        """`records`: those of an app that is connected when a method is called."""
        self._records = records

    # ── for whoever wants to know ─────────────────────────────────────────────────────────────────────────────

    async def services(self) -> list[str]:
        """Every service that has a configuration."""
        return [state.service for state in await self._states() if state.versions]

    async def head(self, service: str) -> Version | None:
        """What a service is to run with; None where nothing is known of it."""
        state = await self.state(service)
        return None if state is None or state.head is None else await self.version(service, state.head)

    async def get(self, service: str, number: int) -> Version | None:
        """A version; None where it is not kept, or never was."""
        state = await self.state(service)
        facts = state.version(number) if state else None
        return None if facts is None else await self.version(service, facts)

    async def numbers(self, service: str) -> list[int]:
        """Every version that is kept, ascending; the head is the last."""
        state = await self.state(service)
        return [facts.number for facts in state.versions] if state else []

    async def drifts(self, service: str) -> list[ConfigDriftDetected]:
        """Each instance that runs with something else now, as it was told."""
        return await Drifts(self._records, service).open()

    async def troubles(self, service: str) -> dict[str, str]:
        """Source → what is wrong with it now, for people: it is broken, gone, or cannot be written."""
        state = await self.state(service)
        return {**state.behind, **state.troubles} if state else {}

    async def all_troubles(self) -> dict[str, dict[str, str]]:
        """The same of every service with one, also of those that have no version yet."""
        found = {state.service: {**state.behind, **state.troubles} for state in await self._states()}
        return {service: troubles for service, troubles in found.items() if troubles}

    async def refusal(self, request_id: str) -> str | None:
        """Why a request for a rollback was refused; None where it was not, or more than a day ago."""
        found = await self._records.read(_refusal(request_id))
        return found[_REASON].decode() if _REASON in found else None

    # ── for the worker and the followers ──────────────────────────────────────────────────────────────────────

    async def state(self, service: str) -> State | None:
        """All that is known of a service's configuration, but for the bytes."""
        return _read(await self._records.read(_key(service)))

    async def version(self, service: str, facts: Facts) -> Version | None:
        """A version with its bytes; None where they have just been dropped."""
        found = await self._records.read(_content(facts.content))
        if _BYTES not in found:
            return None
        return Version(
            service=service,
            number=facts.number,
            checksum=facts.checksum,
            content=found[_BYTES],
            form=facts.form,
            values=json.loads(found[_VALUES]),
            source=facts.source,
            taken_at=facts.taken_at,
            restored_from=facts.restored_from,
            original=found.get(_ORIGINAL),
            patterns=facts.patterns,
        )

    async def _states(self) -> list[State]:
        named = sorted(await self._records.read(_SERVICES))
        return [state for state in await asyncio.gather(*map(self._readable, named)) if state is not None]

    async def _readable(self, service: str) -> State | None:
        try:
            return await self.state(service)
        except UnreadableStateError as error:
            # It is no reason to see no other service.
            log.warning("config.state_unreadable", extra={"service": service, "error": str(error)})
            return None

    async def change(self, service: str, change: Callable[[State], State | None]) -> State | None:
        """Change what is known of a service from what stands; the state as it is then.

        `change` is called again where somebody else was faster; it answers None where nothing is to be done, which is
        the answer here, too.
        """
        while True:
            fields = await self._records.read(_key(service))
            state = _read(fields)
            if state is None:
                listed = {service: datetime.now(UTC).isoformat().encode()}
                await self._records.write(_SERVICES, listed, ttl=KEPT)
                state = State(service=service, key=secrets.token_hex(32))
            changed = change(state)
            if changed is None:
                return None
            new = {_STATE: changed.model_dump_json().encode()}
            if await self._records.swap(_key(service), new, expected={_STATE: fields.get(_STATE)}, ttl=KEPT):
                return changed

    async def store(self, content: bytes, values: Mapping[str, Any], original: bytes | None = None) -> str:
        """Store the bytes of a version that is about to be; what they are called."""
        name = uuid.uuid4().hex
        fields = {_BYTES: content, _VALUES: json.dumps(values, ensure_ascii=False).encode()}
        if original is not None:
            fields[_ORIGINAL] = original
        await self._records.write(_content(name), fields, ttl=_UNCLAIMED)
        return name

    async def keep(self, name: str) -> None:
        """Keep the bytes of a version: there is one now."""
        await self._records.swap(_content(name), {}, expected={}, ttl=KEPT)

    async def drop(self, name: str) -> None:
        """Forget the bytes of a version that is not kept."""
        await self._records.delete(_content(name))

    async def refuse(self, request_id: str, reason: str) -> None:
        """Remember why a request for a rollback is refused."""
        await self._records.write(_refusal(request_id), {_REASON: reason.encode()}, ttl=_REFUSED)


def digest_of(content: bytes) -> str:
    """By which bytes are compared."""
    return hashlib.sha256(content).hexdigest()


def _read(fields: Mapping[str, bytes]) -> State | None:
    if _STATE not in fields:
        return None
    try:
        return State.model_validate_json(fields[_STATE])
    except ValidationError:
        # Not its own words: they quote what stands there.
        raise UnreadableStateError("what is stored was not written by this version of streamtask") from None


def _key(service: str) -> str:
    return f"config-of-{service}"


def _content(name: str) -> str:
    return f"config-content-{name}"


def _refusal(request_id: str) -> str:
    # An id may have characters that a record's key has not.
    return f"config-refused-{hashlib.sha256(request_id.encode()).hexdigest()}"
