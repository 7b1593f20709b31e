"""`python -m tests.simulation --seeds 100000`: many seeds, or one of them again."""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import Pool

from tests.simulation.campaign import Campaign, replay_command
from tests.simulation.options import expand
from tests.simulation.world import Result, simulate


def main() -> int:
    """Exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new seed after so many")
    parser.add_argument("--processes", type=int, default=1, help="how many run side by side (default 1)")
    parser.add_argument("--replay", type=int, help="run this seed only, and print every step of it")
    parser.add_argument("--without", action="append", default=[], help="with this fault turned off; may be repeated")
    chosen = parser.parse_args()
    if chosen.replay is not None:
        return _replay(chosen.replay, chosen.without)
    campaign, end = Campaign(), time.monotonic() + chosen.seconds
    with Pool(chosen.processes) as pool:
        for result in pool.imap_unordered(_run, range(chosen.first, chosen.first + chosen.seeds), chunksize=8):
            campaign.add(result)
            if result.wrong or time.monotonic() > end:
                pool.terminate()
                break
    print(campaign.report())  # noqa: T201
    return int(bool(campaign.failed))


def _run(seed: int) -> Result:
    return simulate(expand(seed))


def _replay(seed: int, without: list[str]) -> int:
    options = expand(seed)
    for fault in without:
        options = options.without(fault)
    result = simulate(options)
    print(*result.lines, options, *result.wrong, f"digest {result.digest}", sep="\n")  # noqa: T201
    if result.wrong and not without:
        needed = [name for name in options.faults.names if not simulate(options.without(name)).wrong]
        print(f"it does not come without: {', '.join(needed) or 'any of them'}")  # noqa: T201
        print(replay_command(seed))  # noqa: T201
    return int(bool(result.wrong))


if __name__ == "__main__":
    sys.exit(main())
