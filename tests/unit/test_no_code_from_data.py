"""No data can become code: nothing in the package can unpickle, evaluate or import what an event says.

Read from the source. What runs a name that the program itself has given is on a list, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[2] / "streamtask"
_FILES = sorted(_PACKAGE.rglob("*.py"))

#: Modules that build objects, or code, from bytes.
_FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "marshal", "shelve", "dbm", "copyreg", "dill", "cloudpickle", "jsonpickle",
    "joblib", "code", "codeop", "runpy", "pdb", "xmlrpc", "multiprocessing",
}  # fmt: skip
#: Calls that do, by the last part of their names; of yaml, all but `parse`, which builds no objects.
_FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "import_module", "system", "popen", "load_source", "unsafe_load",
    "full_load", "enable_insecure_serializers", "yaml.load", "yaml.load_all",
}  # fmt: skip
#: Where one of them is called all the same, and with what.
_ALLOWED = {
    ("__init__.py", "import_module"): "its own modules, by name",
    ("blobs/remote.py", "import_module"): "fsspec",
    ("codec.py", "import_module"): "its own modules, by name",
    ("transport/connect.py", "import_module"): "its own modules, by name",
    ("timetable.py", "import_module"): "its own module, by name",
    ("telemetry/metrics.py", "import_module"): "its own module, by name",
    ("pytest_plugin.py", "import_module"): "its own modules, by name",
    ("cli/commands.py", "import_module"): "its own modules, by name",
    ("worker/child.py", "import_module"): "its own modules, by name",
    ("worker/probes.py", "import_module"): "its own module, by name",
    ("worker/supervisor/installed.py", "import_module"): "its own modules, by name, and watchfiles",
    ("loading.py", "import_module"): "the app that the command line names",
    ("worker/isolation_child.py", "import_module"): "the app that the parent process has loaded",
    ("worker/sandbox_child.py", "import_module"): "the entry that the parent process names; multiprocessing's own name",
    ("annotations.py", "eval"): "the annotations of a handler, as typing.get_type_hints does",
}


def _named(path: Path) -> str:
    return str(path.relative_to(_PACKAGE))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def _called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            # `re.compile` makes a pattern.
            yield name if name in ("yaml.load", "yaml.load_all", "re.compile") else name.rpartition(".")[2]


def _runs_a_shell(tree: ast.AST) -> bool:
    keywords = (word for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords)
    return any(word.arg == "shell" for word in keywords)


@pytest.mark.parametrize("path", _FILES, ids=_named)
def test_a_module_cannot_turn_data_into_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = {call for call in _called(tree) if call in _FORBIDDEN_CALLS}

    assert _FORBIDDEN_MODULES & set(_imported(tree)) == set()
    assert {call for call in calls if (_named(path), call) not in _ALLOWED} == set()
    assert not _runs_a_shell(tree)


def test_what_is_on_the_list_is_still_there() -> None:
    used = {(_named(path), call) for path in _FILES for call in _called(ast.parse(path.read_text()))}
    assert set(_ALLOWED) - used == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from marshal import loads", "import yaml; yaml.load(data)", "eval(data)",
        "x.__import__(data)", "importlib.import_module(data)", "os.system(data)", "subprocess.run(data, shell=True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_searches_for(line: str) -> None:
    tree = ast.parse(line)
    found = _FORBIDDEN_MODULES & set(_imported(tree)) or _FORBIDDEN_CALLS & set(_called(tree)) or _runs_a_shell(tree)
    assert found
