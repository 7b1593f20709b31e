"""Commands are found by their names, and nothing is imported that was not asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamtask.cli.main import streamtask

COMMANDS = [
    "worker", "inspect", "dead", "groups", "scheduled", "publish", "replay", "tasks", "outbox", "bridge", "doctor"
]  # fmt: skip


def every_command() -> list[str]:
    """Our own, then those of whatever package is installed here."""
    return COMMANDS + sorted({found.name for found in entry_points(group="streamtask.commands")} - set(COMMANDS))


def test_the_help_lists_every_command() -> None:
    result = CliRunner().invoke(streamtask, ["--help"], prog_name="streamtask")

    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("word", ["dev", "dashboard", "top", "schema", "inspekt"])
def test_an_unknown_command_is_answered_with_those_there_are(word: str) -> None:
    result = CliRunner().invoke(streamtask, [word], prog_name="streamtask")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"Error: there is no command {word!r} here; there are {', '.join(every_command())}. See `streamtask --help`.\n"
    )


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("inspect", "consumers, event, groups, pending, scheduled, streams, workers, workflow"),
        ("dead", "list, purge, replay, show"),
        ("groups", "drop, list"),
        ("scheduled", "cancel, move"),
    ],
)
def test_an_unknown_command_of_a_group_is_answered_with_those_of_the_group(group: str, known: str) -> None:
    result = CliRunner().invoke(streamtask, [group, "nothing"], prog_name="streamtask")

    assert result.exit_code == 2
    assert f"there are {known}." in result.stderr


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["dead"], ["groups"], ["scheduled"]])
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
    within = (["inspect", "event"], ["dead", "replay"], ["groups", "drop"], ["outbox", "run"])
    for path in (*([name] for name in COMMANDS), *within):
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


# ── commands of other packages ────────────────────────────────────────────────────────────────────────────────────

SHOP = """
import click


@click.command()
@click.option("--to")
def greet(to):
    'Greet somebody.'
    click.echo(f"hello {to}")


not_a_command = 7
"""

ENTRY_POINTS = """
[streamtask.commands]
greet = shop_commands:greet
worker = shop_commands:greet
listen = needs_a_model:listen
needy = wants_an_extra:needy
gone = shop_commands:gone
number = shop_commands:not_a_command
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that has commands, some of which cannot be used."""
    info = tmp_path / "shop_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "shop_commands.py").write_text(SHOP)
    (tmp_path / "needs_a_model.py").write_text("import no_such_model_library\n")
    (tmp_path / "wants_an_extra.py").write_text(
        "from streamtask import ConfigurationError\nraise ConfigurationError(\"pip install '.[audio]'\")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(streamtask, arguments, prog_name="streamtask")
    return result.exit_code, result.stdout, result.stderr


def test_a_command_of_another_package_runs_as_one_of_ours(shop: None) -> None:
    assert run("greet", "--to", "you") == (0, "hello you\n", "")
    assert "Usage: streamtask greet" in run("greet", "--help")[1]


def test_the_help_lists_the_others_after_our_own_also_those_that_cannot_be_used(shop: None) -> None:
    code, out, err = run("--help")

    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert (code, err) == (0, "")
    assert listed == every_command()
    assert {"gone", "greet", "listen", "needy", "number"} < set(listed)
    assert "Greet somebody." in out


def test_an_unknown_word_is_answered_with_the_commands_of_others_too(shop: None) -> None:
    code, _, err = run("grete")

    assert code == 2
    assert f"there are {', '.join(every_command())}." in err
    assert ", greet, " in err


def test_a_built_in_name_stays_ours(shop: None) -> None:
    assert "Run consumers until SIGTERM" in run("worker", "--help")[1]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("listen", "of shop-tools cannot be used: No module named 'no_such_model_library'"),
        ("needy", "of shop-tools cannot be used: pip install '.[audio]'"),
        ("gone", "of shop-tools cannot be used: module 'shop_commands' has no attribute 'gone'"),
        ("number", "is none of click"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["file.wav", "--language", "en"]])
def test_one_that_cannot_be_used_says_in_one_line_what_is_missing(
    shop: None, name: str, why: str, arguments: list[str]
) -> None:
    code, out, err = run(name, *arguments)

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert repr(name) in err
    assert why in err


def test_our_own_commands_start_without_what_reads_what_is_installed() -> None:
    code = (
        "import sys; from streamtask.cli.main import streamtask; "
        "streamtask.main(['worker', '--group'], prog_name='streamtask')"
    )
    listing = f"import atexit, sys; atexit.register(lambda: print('importlib.metadata' in sys.modules)); {code}"

    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=False)

    assert "requires an argument" in done.stderr
    assert done.stdout == "False\n"
