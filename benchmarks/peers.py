"""The systems that are compared: what is installed, how each worker is started, and with which settings.

A system is one row here and one file in `systems/`. README.md says how to add one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: What the speed of more than one system depends on.
_SHARED = ("redis", "coredis", "hiredis", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system, in its best settings."""

    name: str
    #: Its file in `systems/`; systems that share one share a venv.
    module: str
    #: What pip installs, in ranges; nothing: the Python that runs the harness is used.
    packages: tuple[str, ...] = ()
    #: The worker's command line. `{python}`, `{bin}` (of the venv), `{module}`, `{concurrency}`, `{url}`.
    worker: str = ""
    #: Distributions whose versions the report shows beside those of `packages`.
    stands_on: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    #: What the report says of how it is run.
    settings: str
    #: A bound and no peer.
    limit: bool = False
    #: Handlers at once where they do nothing; where they wait it is 100, for all that can.
    concurrency: int = 100
    #: Events of the no-op drain and of the I/O drain: some seconds' worth.
    backlog: int = 10_000
    waiting: int = 5_000
    #: What is measured of it beyond what is measured of all: "emit", "growth", "pending".
    extras: frozenset[str] = frozenset()

    @property
    def publishes_only(self) -> bool:
        """Whether it has no worker."""
        return not self.worker

    def shown(self, versions: Mapping[str, str]) -> dict[str, str]:
        """Of all that is installed, what the report shows: the system and what its speed depends on."""
        if self.publishes_only:
            return {}
        own = [re.split(r"[\[<>=]", package)[0] for package in self.packages]
        return {name: versions[name] for name in dict.fromkeys((*own, *self.stands_on, *_SHARED)) if name in versions}


_HIREDIS = "hiredis>=3,<4"
_UVLOOP = "uvloop>=0.21,<1"
#: A module that consumes when it is run.
_RUN = "{python} -m {module}"

SYSTEMS = (
    System(
        name="streamtask",
        module="on_streamtask",
        worker="{bin}/streamtask worker -A on_streamtask:app --metrics-port 0 --concurrency {concurrency}",
        settings="`streamtask worker -A app --metrics-port 0`, all else as it comes: supervisor, heartbeat, leases, "
        "fenced settling, metrics; uvloop installed",
        stands_on=("streamtask", "pydantic", "msgspec"),
        backlog=150_000,
        waiting=20_000,
        extras=frozenset({"emit", "growth", "pending"}),
    ),
    System(
        name="celery-prefork",
        module="on_celery",
        packages=("celery[redis]>=5.7,<5.8", _HIREDIS),
        worker="{bin}/celery -A {module} worker -P prefork -c 1 --prefetch-multiplier 1000 --without-gossip "
        "--without-mingle --without-heartbeat -l ERROR",
        settings="`-P prefork -c 1 --prefetch-multiplier 1000`, no results, gossip, mingle, heartbeat, remote control; "
        "one task at a time",
        backlog=3_000,
        waiting=250,
    ),
    System(
        name="celery-threads",
        module="on_celery",
        packages=("celery[redis]>=5.7,<5.8", _HIREDIS),
        worker="{bin}/celery -A {module} worker -P threads -c {concurrency} --prefetch-multiplier 10 "
        "--without-gossip --without-mingle --without-heartbeat -l ERROR",
        settings="`-P threads -c 10` (I/O: 100) `--prefetch-multiplier 10`, else as above",
        concurrency=10,
        backlog=4_000,
        waiting=3_000,
    ),
    System(
        name="dramatiq",
        module="on_dramatiq",
        packages=("dramatiq[redis]>=2.2,<2.3", _HIREDIS),
        worker="{bin}/dramatiq {module} -p 1 -t {concurrency}",
        environment=(("dramatiq_queue_prefetch", "200"),),
        settings="`-p 1 -t 8` (I/O: 100), queue prefetch 200",
        concurrency=8,
        backlog=15_000,
        waiting=8_000,
    ),
    System(
        name="taskiq",
        module="on_taskiq",
        packages=("taskiq>=0.13,<0.14", "taskiq-redis>=1.2,<1.3", _HIREDIS, _UVLOOP),
        worker="{bin}/taskiq worker on_taskiq:broker --workers 1 --max-async-tasks {concurrency} "
        "--max-prefetch 100 --no-parse --log-level ERROR",
        settings="RedisStreamBroker, xread_count 100, `--workers 1 --max-async-tasks 100 --max-prefetch 100 "
        "--no-parse`, no results; uvloop",
        waiting=6_000,
    ),
    System(
        name="faststream",
        module="on_faststream",
        packages=("faststream[redis]>=0.7,<0.8", _HIREDIS, _UVLOOP),
        worker=_RUN,
        settings="Redis stream with a group, max_records 100, max_workers 100, logger off; uvloop",
        waiting=6_000,
        extras=frozenset({"growth"}),
    ),
    System(
        name="arq",
        module="on_arq",
        packages=("arq>=0.28,<0.29", "redis[hiredis]<6", _UVLOOP),
        worker=_RUN,
        settings="max_jobs 100, queue_read_limit 1000, poll_delay 10 ms (default: 500 ms), no results, no log; uvloop",
        backlog=5_000,
    ),
    System(
        name="streaq",
        module="on_streaq",
        packages=("streaq>=7.2,<8", _HIREDIS, _UVLOOP),
        worker=_RUN,
        settings="concurrency 100, no results, no log; uvloop",
        backlog=4_000,
        waiting=3_000,
    ),
    System(
        name="docket",
        module="on_docket",
        packages=("pydocket>=0.27,<0.28", _HIREDIS, _UVLOOP),
        worker=_RUN,
        settings="concurrency 100, max_connections 1000, check interval 10 ms (default: 100 ms), nothing kept of what "
        "is done; uvloop",
        backlog=5_000,
        waiting=4_000,
    ),
    System(
        name="repid",
        module="on_repid",
        # Without typing-extensions it cannot be imported, and it does not ask for them.
        packages=("repid[redis]>=2.1,<3", "typing-extensions>=4", _HIREDIS, _UVLOOP),
        worker=_RUN,
        settings="Redis streams, batch_size 100, tasks_limit 100; uvloop",
        backlog=15_000,
        waiting=8_000,
    ),
    System(
        name="huey",
        module="on_huey",
        packages=("huey>=3.5,<4", "redis>=5,<9", _HIREDIS),
        worker="{bin}/huey_consumer on_huey.huey -k thread -w {concurrency} -n -C -q",
        settings="`-k thread -w 8` (I/O: 100) `-n -C -q`, blocking reads, no results; a crash loses what runs",
        concurrency=8,
        waiting=6_000,
    ),
    System(
        name="rq",
        module="on_rq",
        packages=("rq>=3,<4", _HIREDIS),
        worker="{bin}/rq worker -w rq.SimpleWorker -q --url {url} bench",
        settings="SimpleWorker (no fork a job), no results; one job at a time",
        backlog=1_500,
        waiting=250,
    ),
    System(
        name="bare-loop",
        module="on_bare_loop",
        worker=_RUN,
        stands_on=("msgspec",),
        settings="redis-py and nothing else: XREADGROUP COUNT 100, decode, call, one XACK; uvloop",
        limit=True,
        backlog=200_000,
        waiting=20_000,
        extras=frozenset({"growth", "pending"}),
    ),
    System(
        name="redis-benchmark",
        module="on_redis_benchmark",
        settings="`redis-benchmark XADD`: 1 client; 100 clients; 1 client, 500 commands at once",
        limit=True,
    ),
)
