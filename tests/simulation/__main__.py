"""`python -m tests.simulation --seeds 100000`: many seeds, or one of them again."""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import Pool

from tests.simulation.campaign import Campaign
from tests.simulation.options import RANGES, Options, expand
from tests.simulation.world import simulate


def main() -> int:
    """Exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no new seed after so many")
    parser.add_argument("--processes", type=int, default=1, help="how many run side by side (default 1)")
    parser.add_argument("--replay", type=int, help="run this seed only, and print every step of it")
    parser.add_argument("--only", choices=RANGES, help="with this fault alone, as often as it can be")
    parser.add_argument("--without", action="append", default=[], help="with this fault turned off; may be repeated")
    chosen = parser.parse_args()
    if chosen.replay is not None:
        return _replay(_options(chosen.replay, chosen.only), chosen.without)
    campaign, end = Campaign(), time.monotonic() + chosen.seconds
    # What is killed in a simulation never ends, and stays in memory: processes are replaced now and then.
    with Pool(chosen.processes, maxtasksperchild=25) as pool:
        seeds = range(chosen.first, chosen.first + chosen.seeds)
        for result in pool.imap_unordered(simulate, (_options(seed, chosen.only) for seed in seeds), chunksize=8):
            campaign.add(result)
            if result.wrong or time.monotonic() > end:
                pool.terminate()
                break
    print(campaign.report())  # noqa: T201
    return int(bool(campaign.failed))


def _options(seed: int, only: str | None) -> Options:
    options = expand(seed)
    return options.only(only) if only else options


def _replay(options: Options, without: list[str]) -> int:
    for fault in without:
        options = options.without(fault)
    result = simulate(options)
    print(*result.lines, options, *result.wrong, f"digest {result.digest}", sep="\n")  # noqa: T201
    if result.wrong:
        needed = [name for name in options.faults.names if not simulate(options.without(name)).wrong]
        print(f"it does not come without: {', '.join(needed) or 'any one of them'}")  # noqa: T201
    return int(bool(result.wrong))


if __name__ == "__main__":
    sys.exit(main())
