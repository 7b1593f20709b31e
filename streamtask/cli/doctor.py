"""`streamtask doctor`."""

from __future__ import annotations

import click

from streamtask.cli import output
from streamtask.cli.connection import ask
from streamtask.cli.options import json_option, server_options
from streamtask.doctor import Finding, Level, examine

_COLOURS = {Level.PROBLEM: "red", Level.WARNING: "yellow", Level.NOTE: "cyan"}


@click.command()
@server_options
@json_option
def doctor(reference: str | None, broker: str | None, as_json: bool) -> None:
    """Say what can lose or delay events, and how to mend it.

    Looks at the server's configuration, its groups and its dead letters. Changes nothing.
    """
    facts = ask(reference, broker, lambda inspector: inspector.facts())
    findings = examine(facts)
    if as_json:
        output.print_json([output.row(finding) | {"level": finding.level.value} for finding in findings])
        return
    for finding in findings:
        _print(finding)
    if not findings:
        output.say(f"Nothing found on this {facts.engine} {facts.version} that can lose or delay events.")


def _print(finding: Finding) -> None:
    level = click.style(finding.level.value, fg=_COLOURS[finding.level], bold=True)
    click.echo(f"{level}  ", nl=False)
    output.say(f"{finding.check}: {finding.message}.")
    output.say(f"    {finding.remedy}")
