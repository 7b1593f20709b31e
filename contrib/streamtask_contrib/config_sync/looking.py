"""Looking at versions, and asking for one back: what the API and the command line do alike."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from streamtask import App
from streamtask_contrib.config_sync.differences import Difference, difference
from streamtask_contrib.config_sync.state import State
from streamtask_contrib.config_sync.versions import Configs, Version
from streamtask_contrib.events import ConfigRollbackRequested


class NotKeptError(LookupError):
    """There is no such version, or no configuration of this service; the message is for people."""


class NothingToDoError(ValueError):
    """The version that is wanted back is what the service has; the message is for people."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions, and what differs between them."""

    old: Version
    new: Version
    difference: Difference


async def state_of(configs: Configs, service: str) -> State:
    """What is known of a service. Raises `NotKeptError`."""
    state = await configs.state(service)
    if state is None or not state.versions:
        raise NotKeptError(f"no configuration of {service!r}")
    return state


async def version_of(configs: Configs, state: State, number: int) -> Version:
    """A version with what it says. Raises `NotKeptError` with those that are kept."""
    found = await configs.get(state.service, number)
    if found is None:
        kept = ", ".join(str(facts.number) for facts in state.versions)
        raise NotKeptError(f"{state.service!r} has no version {number}; kept are: {kept}")
    return found


async def compare(configs: Configs, service: str, old: int | None, new: int | None) -> Comparison:
    """Compare two versions. `new`: by default what the service has; `old`: by default the one before it.

    Raises `NotKeptError`.
    """
    state = await state_of(configs, service)
    after = await version_of(configs, state, new or state.versions[-1].number)
    earlier = [facts.number for facts in state.versions if facts.number < after.number] or [after.number]
    before = await version_of(configs, state, old or earlier[-1])
    patterns = (*before.patterns, *after.patterns)
    return Comparison(before, after, difference(before.values, after.values, patterns=patterns))


async def ask_back(app: App, service: str, number: int, *, by: str, reason: str) -> ConfigRollbackRequested:
    """Ask for a version to be restored; what was asked. Raises `NotKeptError` and `NothingToDoError`.

    The head itself is asked back where somebody runs with something else: it is written over what was changed by hand.
    """
    configs = Configs(app.records)
    state = await state_of(configs, service)
    await version_of(configs, state, number)
    is_all_well = not state.behind and not await configs.drifts(service)
    if state.versions[-1].number == number and is_all_well:
        raise NothingToDoError(f"version {number} is what {service!r} has already")
    request = ConfigRollbackRequested(
        request_id=uuid.uuid4().hex, service=service, to_version=number, requested_by=by, reason=reason
    )
    await app.publish(request)
    return request
