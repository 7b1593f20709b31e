"""What workers that have ended must not leave behind: processes, blocked clients, consumers, keys that never go.

Read after the workers of a test are gone, from the server's own account and from the kernel's. A server that is gone,
too, has nothing to tell.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamtask.lanes import lane
from streamtask.transport.redis import keys
from tests.chaos.workers import WorkerProcess
from tests.processes import lives

#: Seconds that the kernel and the server may take to notice that a process has died.
_PATIENCE = 5.0
#: What a name may be in a key, as a name and as a pattern.
_ANY = "ANYTHING"
#: Keys that stay until somebody removes them. All others expire.
_LASTING = [
    key
    for name in (_ANY, lane(_ANY, "any"))
    for key in (
        keys.stream(name),
        keys.retry(name, _ANY),
        keys.waits(name, _ANY),
        keys.wait(name, _ANY, _ANY, _ANY),
        keys.history(name, _ANY),
        keys.gates(name, _ANY),
        keys.queued(name, _ANY),
        keys.types(name, _ANY),
        keys.skipped(name, _ANY),
        keys.dead(name),
        keys.dead_counts(name),
        keys.floors(name),
        keys.seen(name),
        keys.delayed(name),
        keys.cron(name),
        keys.outbox(name),
        keys.delayed_bodies(name),
        keys.debounced(name),
        keys.STREAMS,
        keys.WORKERS,
    )
]
_IS_LASTING = re.compile("|".join(re.escape(key).replace(_ANY, ".+").replace(":any", ":[a-z]+") for key in _LASTING))
_IS_OURS = re.compile(r"\{streamtask\}:|\{stream:|streamtask:|\{streamtask:")


def leaks(workers: Sequence[WorkerProcess]) -> list[str]:
    """All that is left of workers that have ended, in words."""
    found = [f"process {left} of {worker.folder.name}" for worker in workers for left in _processes(worker.folder)]
    for url in dict.fromkeys(_address(worker) for worker in workers):
        if not url.startswith(("unix://", "redis://")):
            continue
        client = redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=5.0,
            decode_responses=True,
            encoding_errors="surrogateescape",
        )
        try:
            found += _blocked(client)
            found += _keys(client)
            found += _indexes(client)
            gone = {owner for worker in workers if _address(worker) == url for owner in _retired(worker)}
            found += _owners(client, gone)
            found += _consumers(client, gone)
        except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError):
            pass  # the test has ended its server
        finally:
            client.close()
    return found


def _address(worker: WorkerProcess) -> str:
    """Server and database of a worker, without the user it works as: he may not be allowed to look around."""
    return re.sub("//[^/@]*@", "//", worker.url)


def _processes(folder: Path) -> list[str]:
    """Whatever still works in the folder of a worker."""
    deadline = time.monotonic() + _PATIENCE
    while (left := list(_working_in(folder))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _working_in(folder: Path) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # It may end meanwhile, or be somebody else's.
            with suppress(OSError):
                if (entry / "cwd").readlink() == folder.resolve() and lives(int(entry.name)):
                    yield f"{entry.name}: {(entry / 'cmdline').read_bytes()[:200]!r}"


def _blocked(client: redis.Redis) -> Iterator[str]:
    """Clients that wait for entries, for nobody."""
    deadline = time.monotonic() + _PATIENCE
    while blocked := client.info("clients")["blocked_clients"]:
        if time.monotonic() > deadline:
            yield f"{blocked} clients that wait for entries"
            return
        time.sleep(0.05)


def _keys(client: redis.Redis) -> list[str]:
    """Keys of ours that neither expire nor are known to stay."""
    return [
        f"key {key} stays for ever"
        for key in client.scan_iter(count=1000)
        if _IS_OURS.match(key) and not _IS_LASTING.fullmatch(key) and client.ttl(key) == -1
    ]


def _indexes(client: redis.Redis) -> Iterator[str]:
    """Entries that stand in an index or have a history, and are no longer pending."""
    for stream in client.smembers(keys.STREAMS):
        if client.type(keys.stream(stream)) != "stream":
            continue
        for group in client.xinfo_groups(keys.stream(stream)):
            name = group["name"]
            pending = client.xpending_range(keys.stream(stream), name, "-", "+", max(1, group["pending"]))
            owned = {str(each["message_id"]): str(each["consumer"]) for each in pending}
            for entry in client.zrange(keys.retry(stream, name), 0, -1):
                if owned.get(entry) != keys.PARKED:
                    yield f"entry {entry} of {stream}/{name} is due, and owned by {owned.get(entry)}"
            yield from _at_gates(client, stream, name, owned)
            for word in client.hkeys(keys.history(stream, name)):
                if word.rpartition(":")[0] not in owned:
                    yield f"history of entry {word} of {stream}/{name}, which is not pending"


def _at_gates(client: redis.Redis, stream: str, group: str, owned: Mapping[str, str]) -> Iterator[str]:
    """Entries that keep a gate shut, or queue behind one, and are not what they should be."""
    for index, queues in ((keys.gates(stream, group), False), (keys.queued(stream, group), True)):
        for place in client.zrange(index, 0, -1):
            owner = owned.get("-".join(str(int(part)) for part in place.rpartition(" ")[2].split("-")))
            if owner is None or (owner == keys.QUEUED) != queues:
                yield f"{place} stands in {index}, and is owned by {owner}"


def _retired(worker: WorkerProcess) -> Iterator[str]:
    """Owners that have ended in order, or whose entries the supervisor has handed back."""
    left = {line.get("owner") for line in worker.logs("worker.left_entries")}
    for line in (*worker.logs("worker.stopped"), *worker.logs("hand_back.done")):
        if line["owner"] not in left:
            yield line["owner"]


def _owners(client: redis.Redis, gone: set[str]) -> Iterator[str]:
    """What still names an owner that is gone."""
    for owner in gone:
        if client.exists(keys.beat(owner)) or client.zscore(keys.WORKERS, owner) is not None:
            yield f"{owner} still counts as alive"


def _consumers(client: redis.Redis, gone: set[str]) -> list[str]:
    """Consumers of owners that are gone.

    One that holds nothing is no leak: a read under way when its worker ends is carried out by a busy server after
    the worker has removed its consumer, and makes it anew. The janitors of others remove it.
    """
    found, empty = [], 0
    for stream in client.smembers(keys.STREAMS):
        if client.type(keys.stream(stream)) == "stream":
            for group in client.xinfo_groups(keys.stream(stream)):
                for consumer in client.xinfo_consumers(keys.stream(stream), group["name"]):
                    if consumer["name"] in gone:
                        found.append(f"consumer {consumer['name']} of {stream}/{group['name']}: {consumer['pending']}")
                        empty += not consumer["pending"]
    return [] if empty == len(found) == 1 else found


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - counted, not looked at
