"""`streamtask worker`: hands over to the supervisor, which starts the worker processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from streamtask.cli.options import app_option, broker_option
from streamtask.worker import supervisor
from streamtask.worker.memory import resident_mib
from streamtask.worker.variables import BROKER_VARIABLE

_SUPERVISOR = str(Path(supervisor.__file__).with_name("__main__.py"))


@click.command()
@app_option
@broker_option
@click.option("--group", "groups", multiple=True, help="Only this group; repeatable.")
@click.option("--stream", "streams", multiple=True, help="Only this stream; repeatable.")
@click.option("--concurrency", type=click.IntRange(1), default=100, show_default=True, help="Handlers at once.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Worker processes.")
@click.option("--burst", is_flag=True, help="Stop when nothing is ready, pending or due for retry.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve /metrics, /live and /ready on loopback.")
@click.option("--reload", is_flag=True, help="Start anew when a Python file below this folder changes.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--shutdown-timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds.")
@click.option("--lease", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds.")
@click.option("--max-memory", type=click.IntRange(1), metavar="MIB", help="Replace a process that has more.")
def worker(reference: str | None, broker: str | None, processes: int, reload: bool, **options: Any) -> None:
    """Run consumers until SIGTERM or Ctrl-C."""
    if not reference:
        raise click.UsageError("which app? Give -A module:attribute or set STREAMTASK_APP.")
    if options["max_memory"] is not None and not resident_mib(os.getpid()):
        raise click.UsageError("--max-memory needs /proc/PID/statm, which this system does not have")
    child = [sys.executable, "-m", "streamtask.worker.child", json.dumps({"app": reference, **options})]
    config = {
        "child": child,
        "processes": processes,
        "shutdown_timeout": options["shutdown_timeout"],
        "slots": options["concurrency"],
        "reload": [str(Path.cwd())] if reload else None,
        "log_format": options["log_format"],
        "max_memory": options["max_memory"],
    }
    # The supervisor takes this process over: what was imported to parse the command line is not kept in memory.
    os.execve(  # noqa: S606 - our own interpreter and file
        sys.executable,
        [sys.executable, "-P", "-S", _SUPERVISOR, json.dumps(config)],
        os.environ | ({BROKER_VARIABLE: broker} if broker else {}),
    )
