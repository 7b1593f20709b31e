"""What services are configured with: as it is, as it was, what differs, and back. For operators only.

Secrets are named and never shown. A rollback is asked for; the worker of the group `config-sync` makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from streamtask_contrib.api.service import Serving, User
from streamtask_contrib.api.wording import WordedRoute
from streamtask_contrib.config_sync.looking import (
    NothingToDoError,
    NotKeptError,
    ask_back,
    compare,
    state_of,
    version_of,
)
from streamtask_contrib.config_sync.state import Facts, State
from streamtask_contrib.config_sync.versions import Configs
from streamtask_contrib.events import ID, ConfigDriftDetected


def operator(service: Serving, user: User) -> str:
    """The user, who has to be an operator. Raises 403."""
    # Without keys, who is let in is who has this machine.
    if service.settings.keys and user not in service.settings.operators:
        who = f"STREAMTASK_API_OPERATORS='[\"{user}\"]'"
        raise HTTPException(403, f"configuration is for operators; who runs this API makes you one with {who}")
    return user


Operator = Annotated[str, Depends(operator)]
ServiceName = Annotated[str, Path(pattern=ID)]
router = APIRouter(tags=["configuration"], route_class=WordedRoute, dependencies=[Depends(operator)])


class VersionView(BaseModel):
    """A version, without what it says."""

    service: str
    version: int
    checksum: str
    form: str
    #: Where it was read; of one that was restored, where it is written to.
    source: str
    taken_at: datetime
    #: The version that it is a copy of.
    restored_from: int | None


class DriftView(BaseModel):
    """A process that runs with something else than it should."""

    instance: str
    expected_version: int
    changed_keys: list[str]
    #: A line a key; secrets are named only.
    diff: str
    detected_at: datetime


class ConfigView(VersionView):
    """What a service is to run with, and who does not."""

    #: Secrets are "***".
    values: dict[str, Any]
    drifts: list[DriftView]
    #: Source → what is wrong with it, for people.
    troubles: dict[str, str]


class Overview(VersionView):
    """The same in a line."""

    drifts: int
    troubles: int


class DifferenceView(BaseModel):
    """What differs between two versions."""

    model_config = ConfigDict(populate_by_name=True)

    service: str
    from_version: int = Field(alias="from")
    to_version: int = Field(alias="to")
    changed_keys: list[str]
    #: "+ name: new", "- name: old", "~ name: old → new", a line a key; secrets are named only.
    text: str


class Rollback(BaseModel):
    """Which version is to come back, and why."""

    model_config = ConfigDict(extra="forbid")

    to_version: int = Field(ge=1)
    reason: str = Field(default="", max_length=500)


class RollbackAccepted(BaseModel):
    """It is asked for: the service's next version has `restored_from`."""

    request_id: str
    service: str
    to_version: int


@router.get("/api/config")
async def listed(service: Serving) -> list[Overview]:
    """Every service that has a configuration."""
    configs = Configs(service.events.records)
    found = []
    for name in await configs.services():
        state = await configs.state(name)
        if state is not None and state.head is not None:
            drifts, troubles = await configs.drifts(name), _troubles(state)
            view = _facts_view(name, state.head)
            found.append(Overview(**view, drifts=len(drifts), troubles=len(troubles)))
    return found


@router.get("/api/config/{name}")
async def current(name: ServiceName, service: Serving) -> ConfigView:
    """What a service is to run with, secrets hidden, and who runs with something else."""
    configs = Configs(service.events.records)
    with _told():
        state = await state_of(configs, name)
        head = await version_of(configs, state, state.versions[-1].number)
    drifts = [_drift_view(drift) for drift in await configs.drifts(name)]
    view = _facts_view(name, state.versions[-1])
    return ConfigView(**view, values=head.shown(), drifts=drifts, troubles=_troubles(state))


@router.get("/api/config/{name}/versions")
async def versions(name: ServiceName, service: Serving) -> list[VersionView]:
    """The versions that are kept, the newest first."""
    with _told():
        state = await state_of(Configs(service.events.records), name)
    return [VersionView(**_facts_view(name, facts)) for facts in reversed(state.versions)]


@router.get("/api/config/{name}/diff")
async def compared(
    name: ServiceName,
    service: Serving,
    old: Annotated[int | None, Query(alias="from", ge=1, description="By default the one before `to`.")] = None,
    new: Annotated[int | None, Query(alias="to", ge=1, description="By default what the service has.")] = None,
) -> DifferenceView:
    """What differs between two versions."""
    with _told():
        found = await compare(Configs(service.events.records), name, old, new)
    return DifferenceView(
        service=name,
        from_version=found.old.number,
        to_version=found.new.number,
        changed_keys=found.difference.changed_keys,
        text=found.difference.text,
    )


@router.post("/api/config/{name}/rollback", status_code=202)
async def roll_back(name: ServiceName, wish: Rollback, service: Serving, user: Operator) -> RollbackAccepted:
    """Ask for an earlier version to be restored."""
    with _told():
        request = await ask_back(service.events, name, wish.to_version, by=user, reason=wish.reason)
    return RollbackAccepted(request_id=request.request_id, service=name, to_version=request.to_version)


@contextmanager
def _told() -> Iterator[None]:
    """Answer 404 for what is not there, and 409 where there is nothing to do."""
    try:
        yield
    except NotKeptError as error:
        raise HTTPException(404, str(error)) from error
    except NothingToDoError as error:
        raise HTTPException(409, str(error)) from error


def _troubles(state: State) -> dict[str, str]:
    return state.behind | state.troubles


def _facts_view(name: str, facts: Facts) -> dict[str, Any]:
    shown = {"checksum", "form", "source", "taken_at", "restored_from"}
    return facts.model_dump(include=shown) | {"service": name, "version": facts.number}


def _drift_view(drift: ConfigDriftDetected) -> DriftView:
    shown = {"instance", "expected_version", "changed_keys", "diff", "detected_at"}
    return DriftView(**drift.model_dump(include=shown))
