"""Puts results into the documentation: `python -m benchmarks.page RESULTS.json`.

It writes the tables between two marks of docs/explanation/performance.md and keeps the JSON beside the page, so that a
test can say whether the page still shows what was measured. The picture that lies beside the results comes along.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks.report import render
from benchmarks.results import Results

_FOLDER = Path(__file__).parent.parent / "docs" / "explanation"
PAGE, KEPT = _FOLDER / "performance.md", _FOLDER / "performance.json"
BEGIN = "<!-- begin: written by `python -m benchmarks.page`; do not edit -->"
END = "<!-- end -->"


def filled(page: str, results: Results) -> str:
    """The page, with the tables of these results between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{render(results)}\n{END}{after}"


def main(path: Path) -> None:
    """Write page, JSON and picture."""
    results = Results.load(path)
    results.save(KEPT)
    shutil.copy(path.with_suffix(".png"), KEPT.with_suffix(".png"))
    PAGE.write_text(filled(PAGE.read_text(), results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
