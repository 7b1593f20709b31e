"""`app.sync`: publishing without `await`, from threads, and on both sides of a fork."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamtask import App, ConfigurationError, Event
from tests.servers import RedisServer

#: Publishes before a fork, in the child, and in the parent after the child has collected all that it inherited.
FORKS = """
import gc, os, sys, time
from streamtask import App, Event

app = App("forks", broker=sys.argv[1])


class Reading(Event, stream="readings"):
    by: str


app.sync.publish(Reading(by="parent"))
for number in range(3):
    child = os.fork()
    if not child:
        app.sync.publish(Reading(by=f"child {number}"))
        gc.collect()
        app.sync.publish(Reading(by=f"child {number} again"))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    began = time.monotonic()
    app.sync.publish(Reading(by=f"parent after {number}"))
    print(time.monotonic() - began)
"""


class Reading(Event, stream="readings"):
    by: str


def test_parent_and_child_of_a_fork_publish_on_connections_of_their_own(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    script = tmp_path / "forks.py"
    script.write_text(FORKS)

    done = subprocess.run(
        [sys.executable, script, redis_server.url], capture_output=True, text=True, timeout=40, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(float, done.stdout.split())) < 3
    assert redis_server.client().xlen("stream:readings") == 10


async def test_it_refuses_to_block_a_running_loop_and_names_the_way_that_does_not(redis_server: RedisServer) -> None:
    app = App("meter", broker=redis_server.url)

    with pytest.raises(ConfigurationError, match=r"await app\.publish"):
        app.sync.publish(Reading(by="loop"))


def test_threads_share_it(redis_server: RedisServer, tmp_path: Path) -> None:
    # In a process of its own: its loop's thread lives as long as the process.
    code = (
        "import sys\nfrom concurrent.futures import ThreadPoolExecutor\nfrom tests.integration.test_sync import "
        "publish_from_threads\npublish_from_threads(sys.argv[1])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, redis_server.url], check=True, timeout=40, cwd=Path(__file__).parents[2]
    )

    assert redis_server.client().xlen("stream:readings") == 400


def publish_from_threads(url: str) -> None:
    app = App("meter", broker=url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: app.sync.publish(Reading(by=str(n))), range(400)))
