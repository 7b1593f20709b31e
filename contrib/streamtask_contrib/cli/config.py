"""`streamtask config`: what services are configured with."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click

from streamtask import App, StreamtaskError
from streamtask_contrib.cli import printing
from streamtask_contrib.cli.connecting import broker_option, connected, json_option, works
from streamtask_contrib.config_sync.looking import (
    Comparison,
    NothingToDoError,
    NotKeptError,
    ask_back,
    compare,
    state_of,
    version_of,
)
from streamtask_contrib.config_sync.state import State
from streamtask_contrib.config_sync.versions import Configs, Version
from streamtask_contrib.events import ConfigDriftDetected, ConfigRollbackRequested

_GROUP = "config-sync"
#: Seconds that a rollback is waited for, and between two looks.
_PATIENCE = 30.0
_LOOK = 0.1


@click.group()
def config() -> None:
    """See what services are configured with, and go back. Secrets are named and never shown."""


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@config.command()
@click.argument("service", required=False)
@broker_option
@json_option
def show(*, service: str | None, broker: str | None, as_json: bool) -> None:
    """What SERVICE is to run with, its versions, and who runs with something else; or every service."""
    if service is None:
        _show_all(connected(broker, _overview), as_json=as_json)
    else:
        _show_one(*connected(broker, lambda app: _whole(app, service)), as_json=as_json)


async def _overview(app: App) -> list[tuple[State, list[ConfigDriftDetected]]]:
    configs = Configs(app.records)
    states = [await configs.state(name) for name in await configs.services()]
    return [(state, await configs.drifts(state.service)) for state in states if state is not None]


def _show_all(found: list[tuple[State, list[ConfigDriftDetected]]], *, as_json: bool) -> None:
    if as_json:
        printing.document([_facts(state) | {"drifts": [drift.instance for drift in drifts]} for state, drifts in found])
    elif not found:
        printing.remark("No service has a configuration yet.")
    else:
        rows = []
        for state, drifts in found:
            head = _facts(state)
            restored = f"{head['version']} (as {head['restored_from']})" if head["restored_from"] else head["version"]
            drift = printing.styled("drift", f" of {len(drifts)}") if drifts else ""
            rows.append((state.service, str(restored), printing.ago(head["taken_at"]), head["source"], drift))
        printing.table(("service", "version", "since", "source", "drifts"), rows)


def _facts(state: State, number: int | None = None) -> dict[str, Any]:
    """A version, by default the head, without what it says."""
    facts = state.head if number is None else state.version(number)
    if facts is None:
        raise ValueError(f"{state.service!r} has no version {number}")
    shown = {"checksum", "form", "source", "taken_at", "restored_from"}
    return {"service": state.service, "version": facts.number} | facts.model_dump(include=shown)


async def _whole(app: App, service: str) -> tuple[State, Version, list[ConfigDriftDetected]]:
    configs = Configs(app.records)
    async with _named(configs, service):
        state = await state_of(configs, service)
        return state, await version_of(configs, state, state.versions[-1].number), await configs.drifts(service)


def _show_one(state: State, head: Version, drifts: list[ConfigDriftDetected], *, as_json: bool) -> None:
    versions = [_facts(state, facts.number) for facts in reversed(state.versions)]
    troubles = state.behind | state.troubles
    if as_json:
        told = [drift.model_dump(mode="json") for drift in drifts]
        more = {"values": head.shown(), "versions": versions, "drifts": told, "troubles": troubles}
        printing.document(_facts(state) | more)
        return
    printing.say(f"{head.service}, version {head.number} of {head.source}, checksum {head.checksum[:12]}")
    printing.heading("Values")
    for name, value in _flat(head.shown()):
        printing.say(f"  {name}: {printing.compact(value)}")
    printing.heading("Versions")
    rows = [
        (str(one["version"]), printing.ago(one["taken_at"]), one["checksum"][:12], _origin(one)) for one in versions
    ]
    printing.table(("version", "since", "checksum", "from"), rows)
    for source, trouble in troubles.items():
        printing.heading(f"Trouble with {source}")
        printing.say(f"  {trouble}")
    for drift in drifts:
        printing.heading(f"Drift of {drift.instance}, since {printing.ago(drift.detected_at)}")
        for line in drift.diff.splitlines():
            printing.say(f"  {line}")


def _origin(version: Mapping[str, Any]) -> str:
    return f"version {version['restored_from']}" if version["restored_from"] else str(version["source"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ── diff ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@config.command()
@click.argument("service")
@click.argument("from_version", metavar="[FROM]", type=click.IntRange(1), required=False)
@click.argument("to_version", metavar="[TO]", type=click.IntRange(1), required=False)
@broker_option
@json_option
def diff(*, service: str, from_version: int | None, to_version: int | None, broker: str | None, as_json: bool) -> None:
    """What differs between two versions of SERVICE.

    By default between the last two; with FROM alone, between that one and what the service has.
    """

    async def both(app: App) -> Comparison:
        configs = Configs(app.records)
        async with _named(configs, service):
            return await compare(configs, service, from_version, to_version)

    compared = connected(broker, both)
    old, new, found = compared.old, compared.new, compared.difference
    if as_json:
        facts = {"service": service, "from": old.number, "to": new.number}
        printing.document(facts | {"changed_keys": found.changed_keys, "text": found.text})
        return
    printing.remark(f"{service}: version {old.number} → {new.number}")
    for line in found.text.splitlines():
        printing.say_coloured(line, {"+": "green", "-": "red", "~": "yellow"}.get(line[:1]))
    if not found.changed_keys:
        printing.remark("They say the same.")


# ── rollback ──────────────────────────────────────────────────────────────────────────────────────────────────────


@config.command()
@click.argument("service")
@click.argument("version", type=click.IntRange(1))
@click.option("--reason", default="", help="Why, for those who look later.")
@broker_option
@json_option
def rollback(*, service: str, version: int, reason: str, broker: str | None, as_json: bool) -> None:
    """Have VERSION of SERVICE back, as a new version; the services that follow it take it over."""

    async def restore(app: App) -> int:
        configs = Configs(app.records)
        async with _named(configs, service):
            await version_of(configs, await state_of(configs, service), version)
        if not await works(app, _GROUP):
            # It would be done whenever one comes, to everybody's surprise.
            start = "streamtask worker -A streamtask_contrib.config_sync:app"
            raise StreamtaskError(f"no worker of group {_GROUP} lives, which would do it: {start}")
        async with _named(configs, service):
            request = await ask_back(app, service, version, by=getpass.getuser(), reason=reason)
        return await _restored(configs, request)

    made = connected(broker, restore)
    if as_json:
        printing.document({"service": service, "version": made, "restored_from": version})
    else:
        printing.say(f"{service} has version {version} again, as version {made}.")


async def _restored(configs: Configs, request: ConfigRollbackRequested) -> int:
    """Wait for the version that a request makes. Raises StreamtaskError where it makes none."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        state = await configs.state(request.service)
        made = None if state is None else state.from_request(request.request_id)
        if made is not None:
            return made.number
        if (why := await configs.refusal(request.request_id)) is not None:
            raise StreamtaskError(f"it was refused: {why}")
        await asyncio.sleep(_LOOK)
    raise StreamtaskError(
        f"it has not been done within {_PATIENCE:g} s, and will be as soon as a worker of group {_GROUP} comes to it; "
        f"see streamtask config show {request.service}"
    )


@asynccontextmanager
async def _named(configs: Configs, service: str) -> AsyncIterator[None]:
    """Tell of what is not there, with what there is."""
    try:
        yield
    except NotKeptError as error:
        known = await configs.services()
        hint = "" if service in known else f"; {printing.there_are(service, known)}"
        raise StreamtaskError(f"{error}{hint}") from error
    except NothingToDoError as error:
        raise StreamtaskError(str(error)) from error
