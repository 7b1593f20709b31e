"""The documentation says what the code does: its Python runs, and its tables are complete."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamtask
from streamtask import broker

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_PAGES = [_ROOT / "README.md", *sorted(_DOCS.rglob("*.md"))]
#: A fenced block of Python, and whether the line above it says that it can be run.
_BLOCK = re.compile(r"(?P<run><!-- run -->\n)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of Python on a page."""

    page: Path
    line: int
    code: str
    runs: bool

    def compiled(self) -> Any:
        """Its code; the line numbers are those of the page."""
        return compile(
            "\n" * self.line + self.code, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(page, line, inspect.cleandoc("\n" + found["code"]) + "\n", runs=found["run"] is not None)


def named(page: Path) -> str:
    return str(page.relative_to(_ROOT))


@pytest.mark.parametrize("page", [page for page in _PAGES if any(blocks(page))], ids=named)
def test_every_python_block_of_a_page_compiles(page: Path) -> None:
    for block in blocks(page):
        block.compiled()


@pytest.mark.parametrize("page", [page for page in _PAGES if any(block.runs for block in blocks(page))], ids=named)
def test_the_blocks_of_a_page_that_say_so_run_one_after_the_other(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STREAMTASK_BROKER", "memory://")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for block in blocks(page):
        if block.runs:
            code = block.compiled()
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, names))  # noqa: S307 - the documentation's own code
            else:
                exec(code, names)  # noqa: S102 - as above


def test_every_dead_letter_reason_of_the_code_is_explained() -> None:
    assert set(dead_letter_reasons()) == explained("dead-letters.md", until="The fields of the entry")


def dead_letter_reasons() -> Iterator[str]:
    """What is called a reason in the broker, the only place that decides on one."""
    yield from (reason for _, reason in broker._FINAL)
    for node in ast.walk(ast.parse(inspect.getsource(broker))):
        named = isinstance(node, ast.keyword) and node.arg == "reason"
        assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason"
        if named or assigned or isinstance(node, ast.Return):
            value = node.value
            for each in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value:
                    yield each.value


def test_every_log_event_of_the_code_is_explained() -> None:
    assert set(log_events()) == explained("logs.md")


def log_events() -> Iterator[str]:
    """The first argument of every `log.warning("...")` and its like."""
    for path in (_ROOT / "streamtask").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "log":
                for argument in node.args:
                    # "%s.failed" of each duty is explained by hand.
                    if (
                        isinstance(argument, ast.Constant)
                        and isinstance(argument.value, str)
                        and "%" not in argument.value
                    ):
                        yield argument.value


def explained(page: str, *, until: str = "\0") -> set[str]:
    """The words that begin the rows of a reference page's tables, down to a place."""
    text = (_DOCS / "reference" / page).read_text().partition(until)[0]
    return set(re.findall(r"^\| `([a-z_.]+)`", text, re.MULTILINE))


def test_every_test_that_a_page_names_as_a_proof_is_there() -> None:
    named = {path for page in _PAGES for path in re.findall(r"`(tests/[\w/.]+)`", page.read_text())}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (_ROOT / path).exists()] == []


def test_every_promise_names_a_test_that_is_there() -> None:
    page = _DOCS / "explanation" / "what-can-be-lost.md"
    promised, _, untried = page.read_text().partition("## What is not tried here")
    tables = [list(table) for table in _tables(promised)]
    rows = [row for head, *rows in tables for row in rows]
    assert len(rows) > 20
    assert [head for head, *_ in tables if head[-1] != "proved by"] == []
    assert [row for row in rows if not _proofs(row[-1])] == []
    assert [head for head, *_ in _tables(untried) if "proved by" in head] == []


def test_every_test_function_that_a_page_names_is_in_its_file() -> None:
    named = {proof for page in _PAGES for proof in _proofs(page.read_text())}
    assert len(named) > 20
    missing = [
        f"{path}::{name}"
        for path, name in sorted(named)
        if not re.search(rf"^(async )?def {name}\(", (_ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def _proofs(text: str) -> list[tuple[str, str]]:
    """The file and the name of each test function that is named."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def _tables(text: str) -> Iterator[Iterator[list[str]]]:
    """The cells of each row of each table, the head first, without the line below it."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
        yield (row for row in rows if set(row[0]) != {"-"})


def test_every_public_name_is_in_the_reference() -> None:
    page = (_DOCS / "reference" / "api.md").read_text() + (_DOCS / "reference" / "errors.md").read_text()
    missing = [
        name for name in streamtask.__all__ if not re.search(rf":: streamtask\.{name}(\(\))?$", page, re.MULTILINE)
    ]
    assert missing == []
