"""The benchmark's arithmetic, its tables, and the page that shows them. Nothing is measured here."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
# Last: streamtask itself is the installed one.
sys.path.append(str(_ROOT))

page, report, scenes = (importlib.import_module(f"benchmarks.{name}") for name in ("page", "report", "scenes"))
FIGURES = importlib.import_module("benchmarks.figures").FIGURES
SYSTEMS = importlib.import_module("benchmarks.peers").SYSTEMS
Board = importlib.import_module("benchmarks.systems.fixture").Board
Results = importlib.import_module("benchmarks.results").Results
command = importlib.import_module("benchmarks.__main__")


def results(**systems: dict[str, Any]) -> Any:
    """Results of two rounds; a name that ends in `_limit` is a limit."""
    machine = {
        "processor": "2 × x",
        "memory": "1 GiB",
        "system": "Linux",
        "python": "3.11",
        "redis": "redis 7",
        "load": "0",
    }
    plain = {name: {"settings": "-", "limit": name.endswith("_limit"), **each} for name, each in systems.items()}
    common = {"command": "python -m benchmarks", "date": "2026-01-01", "rounds": 2, "quick": False}
    return Results.from_plain({**common, "machine": machine, "systems": plain})


def test_a_summary_is_the_median_the_smallest_and_the_largest() -> None:
    assert report.Summary.of([3.0, 1.0, 2.0]) == report.Summary(2.0, 1.0, 3.0)
    assert report.Summary.of([4.0, 1.0]) == report.Summary(2.5, 1.0, 4.0)


@pytest.mark.parametrize(
    ("figure", "ours", "peers", "expected"),
    [
        ("noop", [100.0, 300.0], {"a": [10.0, 30.0], "b": [50.0, 50.0]}, (4.0, "b")),
        ("noop", [10.0], {"a": [40.0]}, (0.25, "a")),
        ("latency-p50", [2.0], {"a": [8.0], "b": [6.0]}, (3.0, "b")),
        ("latency-p50", [8.0], {"a": [2.0]}, (0.25, "a")),
    ],
)
def test_above_one_streamtask_is_better_than_the_best_peer(
    figure: str, ours: list[float], peers: dict[str, list[float]], expected: tuple[float, str]
) -> None:
    measured = results(
        streamtask={"values": {figure: ours}},
        best_limit={"values": {figure: [1e9] if FIGURES[figure].more else [1e-9]}},
        **{name: {"values": {figure: values}} for name, values in peers.items()},
    )

    assert report.compare(measured, FIGURES[figure]) == report.Comparison(*expected)


def test_without_a_peer_or_with_a_peer_at_nothing_there_is_no_ratio() -> None:
    alone = results(streamtask={"values": {"noop": [1.0]}}, a_limit={"values": {"noop": [2.0]}})
    assert report.compare(alone, FIGURES["noop"]) is None
    for ours, theirs in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2)):
        idle = results(streamtask={"values": {"cpu-idle": [ours]}}, a={"values": {"cpu-idle": [theirs]}})
        assert report.compare(idle, FIGURES["cpu-idle"]) is None


def test_the_tables_show_medians_with_their_range_the_ratio_and_what_failed() -> None:
    text = report.render(
        results(
            streamtask={"values": {"noop": [1000.0, 3000.0], "io": [5.0]}},
            a={"values": {"noop": [100.0, 100.0]}, "failures": {"io": "the worker ended: boom"}},
            b={"failures": {"installing": "no network"}},
        )
    )

    assert re.search(r"\| \*\*streamtask\*\* +\| 2,000 \(1,000–3,000\) \| +5 \|", text)
    assert re.search(r"\| a +\| +100 \(100–100\) \| +failed \|", text)
    assert re.search(r"\| \*streamtask to the best peer\* +\| +20 × a \| +– \|", text)
    assert "- a (io): the worker ended: boom" in text
    assert "- b (installing): no network" in text


def test_the_columns_of_a_table_line_up() -> None:
    lines = report.table(["system", "rate"], [["a", "1,000"], ["longer", "1"]]).splitlines()

    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------ | ----: |"


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]

    assert scenes.percentile(values, 0.99) == 100.0
    assert scenes.percentile([5.0], 0.99) == 5.0


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    measured = results(streamtask={"values": {"noop": [1.5]}, "versions": {"redis": "8"}, "failures": {"io": "no"}})
    measured.save(tmp_path / "results.json")

    assert Results.load(tmp_path / "results.json") == measured


def test_the_board_keeps_when_each_handler_counted(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", 3)
    other = Board(tmp_path / "board")
    board.done()
    board.done()

    assert other.count == 2
    assert 0 < other.at(1) <= other.at(2)
    other.reset()
    assert board.count == 0


def test_names_are_put_into_the_programs_order_and_unknown_ones_refused() -> None:
    options = command.parser().parse_args(["--systems", "bare-loop,streamtask"])

    assert options.systems == ["streamtask", "bare-loop"]
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--figures", "speed"])


def test_every_system_has_its_file_and_every_scene_its_figures() -> None:
    folder = _ROOT / "benchmarks" / "systems"

    assert [system.name for system in SYSTEMS if not (folder / f"{system.module}.py").is_file()] == []
    assert {name for scene in scenes.SCENES for name in scene.figures} == set(FIGURES)


def test_the_page_shows_what_was_measured() -> None:
    text = page.PAGE.read_text()

    assert page.filled(text, Results.load(page.KEPT)) == text
