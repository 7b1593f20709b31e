"""Commands are found by their names, and nothing is imported that was not asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from streamtask.cli.main import streamtask

COMMANDS = ["worker", "inspect", "dead", "groups", "publish", "replay", "doctor"]


def test_the_help_lists_every_command() -> None:
    result = CliRunner().invoke(streamtask, ["--help"], prog_name="streamtask")

    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("word", ["dev", "dashboard", "top", "schema", "inspekt"])
def test_an_unknown_command_is_answered_with_those_there_are(word: str) -> None:
    result = CliRunner().invoke(streamtask, [word], prog_name="streamtask")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: there is no command {word!r} here; there are {', '.join(COMMANDS)}. See `streamtask --help`.\n"
    )


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("inspect", "consumers, event, groups, pending, scheduled, streams, workers"),
        ("dead", "list, purge, replay, show"),
        ("groups", "drop, list"),
    ],
)
def test_an_unknown_command_of_a_group_is_answered_with_those_of_the_group(group: str, known: str) -> None:
    result = CliRunner().invoke(streamtask, [group, "nothing"], prog_name="streamtask")

    assert result.exit_code == 2
    assert f"there are {known}." in result.stderr


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["dead"], ["groups"]])
def test_without_a_command_the_help_is_shown_as_a_mistake(arguments: list[str]) -> None:
    result = CliRunner().invoke(streamtask, arguments, prog_name="streamtask")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: streamtask")


@pytest.mark.parametrize("arguments", [["inspect", "groups", "--nothing"], ["inspect", "event"], ["replay"]])
def test_wrong_usage_is_one_line_that_names_the_help(arguments: list[str]) -> None:
    result = CliRunner().invoke(streamtask, arguments, prog_name="streamtask")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "--help`" in result.stderr


def test_every_command_has_help() -> None:
    for path in (*([name] for name in COMMANDS), ["inspect", "event"], ["dead", "replay"], ["groups", "drop"]):
        result = CliRunner().invoke(streamtask, [*path, "--help"], prog_name="streamtask")

        assert (result.exit_code, result.stderr) == (0, "")


def test_the_worker_starts_without_what_draws_tables() -> None:
    code = (
        "import sys; from streamtask.cli.main import streamtask; "
        "streamtask.get_command(None, 'worker'); "
        "print([name for name in sys.modules if name.split('.')[0] == 'rich' or name == 'streamtask.inspector'])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed == "[]\n"
