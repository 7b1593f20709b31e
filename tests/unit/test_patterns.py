"""No text makes a regular expression slow: each one of the package, used as the package uses it, on 100 kB."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PACKAGE = Path(__file__).parents[2] / "streamtask"
_SIZE = 100_000
#: Seconds of this process for one text. A pattern that looks at each character once takes a hundredth of it, one that
#: looks at each pair of them a hundred times as long.
_MOST = 1.0
_METHODS = ("search", "match", "fullmatch", "sub", "findall", "finditer", "split")


def _used() -> Iterator[tuple[str, str, re.Pattern[Any]]]:
    """Where a pattern stands, how it is used, and the pattern itself."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if "re." not in path.read_text():
            continue
        tree = ast.parse(path.read_text())
        name = ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            method, owner = node.func.attr, node.func.value
            if method not in _METHODS or not isinstance(owner, ast.Name):
                continue
            pattern = getattr(module, owner.id, None)
            if pattern is re and isinstance(node.args[0], ast.Constant):
                pattern = re.compile(node.args[0].value)
            if isinstance(pattern, re.Pattern):
                yield f"{name}:{node.lineno}", method, pattern


_USED = list(_used())


def _parts(pattern: str) -> set[str]:
    """Short texts of which a bad one for this pattern would be made: its own characters, alone and in pairs."""
    own = sorted({char for char in re.sub(r"\\.", "", pattern) if char not in "()[]{}|^$*+?\\"})[:6]
    usual = ["a", "1", " ", "\n", "@", "=", "&", "://", "a=", "1.", "1s", "é", "\x1b", "\ud800", "-", ","]
    pairs = {first + second for first in own for second in own}
    return {*own, *usual, *pairs}


def _texts(pattern: str) -> Iterator[str]:
    for part in sorted(_parts(pattern)):
        pumped = part * (_SIZE // len(part))
        for lead in ("", "://", "@user_script: 1: ", "failed: X "):
            yield lead + pumped
        yield pumped + "!"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("place", "method", "pattern"), _USED, ids=[f"{place}-{how}" for place, how, _ in _USED])
def test_no_text_makes_a_pattern_slow(place: str, method: str, pattern: re.Pattern[Any]) -> None:
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode()
    slowest = 0.0
    for text in _texts(source):
        given: Any = text if isinstance(pattern.pattern, str) else text.encode("utf-8", "surrogatepass")
        began = time.process_time()
        # What replaces is ours; finding is the pattern's.
        found = pattern.finditer(given) if method == "sub" else getattr(pattern, method)(given)
        if method in ("sub", "finditer"):
            for _ in found:
                pass
        slowest = max(slowest, time.process_time() - began)
        assert slowest < _MOST, text[:40]
    print(f"\nMEASURED {place} {method}: slowest of 100 kB = {slowest * 1000:.1f} ms")  # noqa: T201


def test_the_patterns_are_found() -> None:
    assert len(_USED) > 12


def test_a_slow_pattern_would_be_seen() -> None:
    slow = re.compile(r"(?:a+)+b")
    began = time.process_time()
    slow.match("a" * 24)
    assert time.process_time() - began > _MOST / 10
