"""A limit, no system: how fast `redis-benchmark` adds entries to a stream."""

from __future__ import annotations

import re
import shutil
import subprocess
from urllib.parse import urlsplit

from fixture import URL

#: Clients, and commands that a client sends at once.
HOW = {"one": (1, 1), "callers": (100, 1), "many": (1, 500)}
#: Is as fast as this many times what the systems do: it gets as much more to do.
MORE = 10


def publish(kind: str) -> None:
    raise LookupError("it publishes by itself: see `seconds`")


def seconds(how: str, count: int) -> float:
    program = shutil.which("redis-benchmark")
    if program is None:
        raise FileNotFoundError("redis-benchmark is not on PATH")
    clients, pipelined = HOW[how]
    port = str(urlsplit(URL).port)
    command = [program, "-p", port, "-c", str(clients), "-P", str(pipelined), "-n", str(count * MORE), "-q"]
    command += ["XADD", "bench", "*", "kind", "noop", "payload", '{"i":17}']
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rates = re.findall(r"([\d.]+) requests per second", answer)
    if not rates:
        raise RuntimeError(f"redis-benchmark said: {answer.strip()[-200:]}")
    return count / float(rates[-1])
