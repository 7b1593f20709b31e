"""`streamtask worker` without click: it reads what click reads, or leaves it to click."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamtask.cli import quick
from streamtask.cli.flags import FLAGS
from streamtask.cli.worker import worker

NAMES = [name for flag in FLAGS for name in (flag.name, flag.short) if name]
VALUES = {
    "--app": st.sampled_from(["shop:app", "a.b.c:make_app"]),
    "-A": st.just("other:app"),
    "--group": st.sampled_from(["billing", "mail", "ø"]),
    "--stream": st.sampled_from(["orders", "stream:orders"]),
    "--concurrency": st.integers(1, 10_000).map(str),
    "--processes": st.integers(1, 64).map(str),
    "--metrics-port": st.integers(0, 65535).map(str),
    "--log-format": st.sampled_from(["text", "json"]),
    "--shutdown-timeout": st.sampled_from(["0", "30", "0.5", "12.25", ".5", "5."]),
    "--lease": st.sampled_from(["60", "0.1", "0.10", "3600"]),
}


def beyond_doubt() -> st.SearchStrategy[list[str]]:
    with_value = st.sampled_from(sorted(VALUES)).flatmap(lambda name: VALUES[name].map(lambda value: [name, value]))
    option = with_value | st.sampled_from([["--burst"], ["--reload"]])
    return st.lists(option, max_size=8).map(
        lambda options: ["-A", "shop:app", *(word for each in options for word in each)]
    )


def anything() -> st.SearchStrategy[list[str]]:
    numbers = [
        "1",
        "0",
        "-1",
        "+5",
        "5 ",
        "1_000",
        "٣",
        "1e3",
        "nan",
        "inf",
        "1.5",
        ".",
        "",
        "9" * 5000,
        "0x10",
        "65536",
    ]
    texts = ["shop:app", "text", "JSON", "js", "--", "-", "-x", "worker", "x y", "a=b"]
    joined = st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from([*numbers, *texts]))
    return st.lists(st.sampled_from([*NAMES, "--help", "-h", "--proc", *numbers, *texts]) | joined, max_size=7)


def read_by_click(words: list[str]) -> dict[str, Any] | None:
    try:
        params = worker.make_context("worker", list(words)).params
    except (click.ClickException, click.exceptions.Exit):
        return None
    return json.loads(json.dumps(params))


@given(beyond_doubt())
def test_what_is_beyond_doubt_is_read_as_click_reads_it(words: list[str]) -> None:
    options = quick.options_of(words, {})

    assert options is not None
    assert options == read_by_click(words)


@given(anything())
@example(["-A", "shop:app", "--concurrency", "٣"])
@example(["-A", "shop:app", "--lease", "nan"])
@example(["-A", "shop:app", "--shutdown-timeout", "9" * 5000])
def test_whatever_is_written_is_read_as_click_reads_it_or_left_to_it(words: list[str]) -> None:
    options = quick.options_of(words, {})

    assert options is None or options == read_by_click(words)


def test_the_app_may_stand_in_the_environment_and_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick.options_of(["--burst"], {}) is None
    options = quick.options_of(["--burst"], {"STREAMTASK_APP": "shop:app"})
    monkeypatch.setenv("STREAMTASK_APP", "shop:app")

    assert options == read_by_click(["--burst"])


def test_other_commands_and_questions_are_for_click() -> None:
    quick.run([])
    quick.run(["inspect"])
    quick.run(["--version"])
    quick.run(["worker", "--help"])
    quick.run(["worker", "-A", "shop:app", "--max-memory", "500"])


def test_the_url_of_a_broker_does_not_stay_in_the_arguments_of_the_process() -> None:
    # What click hands over to another program has new arguments.
    assert quick.options_of(["-A", "shop:app", "--broker", "redis://:secret@redis"], {}) is None


def test_a_worker_is_started_without_click_and_with_the_standard_library_alone() -> None:
    program = """
import sys
here = set(sys.modules)
import streamtask.worker.supervisor.command as command
command.main = lambda settings: print(settings, *(set(sys.modules) - here), sep="\\n") or 7
sys.argv = ["streamtask", "worker", "-A", "shop:app", "--group", "a", "--group", "b"]
from streamtask.cli import main
main()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert run.returncode == 7, run.stderr
    settings, *modules = run.stdout.splitlines()
    child = json.loads(json.loads(settings)["child"][-1])
    assert (child["app"], child["groups"]) == ("shop:app", ["a", "b"])
    heavy = {"click", "pathlib", "typing", "dataclasses", "asyncio", "inspect", "tempfile", "msgspec", "pydantic"}
    assert heavy & set(modules) == set()


def test_a_mistake_is_told_in_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "streamtask", "worker", "-A", "shop:app", "--procesess", "2"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert "No such option" in run.stderr
    assert "'--processes'? See `streamtask worker --help`." in run.stderr
