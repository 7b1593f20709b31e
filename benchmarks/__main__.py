"""`python -m benchmarks`: install the peers, run every system in turn, say what came out."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import meters
from benchmarks.figures import FIGURES
from benchmarks.peers import SYSTEMS, System
from benchmarks.report import render
from benchmarks.results import Results, SystemResult
from benchmarks.scenes import SCENES, Scene
from benchmarks.servers import NoServerError, Server, private_server
from benchmarks.stage import MeasurementError, Scale, staged
from benchmarks.venvs import Environment, InstallError, environment, is_ready

_NAMES = [system.name for system in SYSTEMS]
_PLOT = ("matplotlib>=3.9,<4",)


@dataclass(slots=True)
class Run:
    """One run: what was asked for, and what has come out so far."""

    systems: list[System]
    scenes: list[Scene]
    figures: set[str]
    scale: Scale
    cache: Path
    results: Results
    environments: dict[str, Environment] = field(default_factory=dict)

    def prepare(self) -> None:
        """Install what is missing. A system that cannot be installed is named in the report, and left out."""
        for system in self.systems:
            result = SystemResult(settings=system.settings, limit=system.limit)
            self.results.systems[system.name] = result
            say(f"preparing {system.name}")
            try:
                prepared = environment(self.cache, system.module.removeprefix("on_"), system.packages)
            except InstallError as error:
                result.failures["installing"] = str(error)
                continue
            self.environments[system.name] = prepared
            result.versions = system.shown(prepared.versions)

    def measure(self, server: Server, folder: Path) -> None:
        """Every system in turn, as often as there are rounds; another one begins each time."""
        ready = [system for system in self.systems if system.name in self.environments]
        for number in range(self.results.rounds):
            first = number * max(1, len(ready) // self.results.rounds) % max(1, len(ready))
            for system in ready[first:] + ready[:first]:
                say(f"round {number + 1} of {self.results.rounds}: {system.name}")
                self._play(system, server, folder)

    def _play(self, system: System, server: Server, folder: Path) -> None:
        result = self.results.systems[system.name]
        for scene in self.scenes:
            asked = self.figures.intersection(scene.figures)
            what = ", ".join(name for name in scene.figures if name in asked)
            # What has failed once is not tried again: it would cost its time limit in every round.
            if not asked or not scene.suits(system) or what in result.failures:
                continue
            try:
                with staged(system, self.environments[system.name], server, self.scale, folder) as stage:
                    for figure, value in scene.play(stage):
                        if figure in asked:
                            result.values.setdefault(figure, []).append(value)
            except MeasurementError as error:
                say(f"  {what}: {error}")
                result.failures[what] = str(error)


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 measured, 1 nothing could be."""
    options = parser().parse_args(arguments)
    run = planned(options, arguments)
    began = time.monotonic()
    # As Ctrl-C does: workers and the server are ended before the program is.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        run.prepare()
        with private_server() as server, tempfile.TemporaryDirectory(prefix="st-bench-") as folder:
            run.results.machine["redis"] = server.version
            run.measure(server, Path(folder))
    except NoServerError as error:
        say(str(error))
        return 1
    finally:
        _end_what_is_left()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "results.json"
    run.results.save(kept)
    (options.out / "results.md").write_text(render(run.results))
    print(render(run.results))
    say(
        f"took {time.monotonic() - began:.0f} s; written to {options.out}: results.json, results.md{plotted(run, kept)}"
    )
    return 0 if any(system.values for system in run.results.systems.values()) else 1


def _end_what_is_left() -> None:
    """Kill what a signal has cut off between its start and the place that would have ended it."""
    for pid in meters.tree(os.getpid()):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--systems", type=names(_NAMES), default=_NAMES, help=f"some of {','.join(_NAMES)}")
    made.add_argument("--figures", type=names(list(FIGURES)), default=list(FIGURES), help=f"of {','.join(FIGURES)}")
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    made.add_argument("--quick", action="store_true", help="small backlogs, no growth: to see that it works")
    made.add_argument("--out", type=Path, default=Path(".benchmarks/out"), help="where results go (.benchmarks/out)")
    made.add_argument("--cache", type=Path, default=Path(".benchmarks"), help="where venvs are kept (.benchmarks)")
    return made


class names:  # noqa: N801 - argparse shows it: "invalid names value"
    """Reads a list with commas, of known names."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        """The names, in the order that the program has them in."""
        asked = text.split(",")
        if unknown := sorted(set(asked) - set(self._known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(self._known)}")
        return [name for name in self._known if name in asked]


def planned(options: argparse.Namespace, arguments: Sequence[str]) -> Run:
    """What is to be done."""
    machine = meters.machine() | {"load": f"{meters.load():.1f}", "commit": commit()}
    results = Results(
        command=shlex.join(["python", "-m", "benchmarks", *arguments]),
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        rounds=options.rounds,
        quick=options.quick,
        machine=machine,
    )
    return Run(
        systems=[system for system in SYSTEMS if system.name in options.systems],
        scenes=[scene for scene in SCENES if not (options.quick and scene.long)],
        figures=set(options.figures),
        scale=Scale.quick() if options.quick else Scale(),
        cache=options.cache,
        results=results,
    )


def commit() -> str:
    """Of the checkout, or nothing."""
    folder = Path(__file__).parent
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def plotted(run: Run, kept: Path) -> str:
    """Draw the picture beside the JSON, if that is possible; what to say of it."""
    if run.results.quick and not is_ready(run.cache, "plot", _PLOT):
        return "; no picture: a quick run installs no matplotlib"
    target = kept.with_suffix(".png")
    try:
        python = environment(run.cache, "plot", _PLOT).python
    except InstallError as error:
        return f"; no picture: {error}"
    script = Path(__file__).with_name("plot.py")
    done = subprocess.run([str(python), str(script), str(kept), str(target)], check=False)
    return f", {target.name}" if not done.returncode else "; no picture: see above"


def say(text: str) -> None:
    """To the one who waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
