"""One worker process under the supervisor: imports the app, consumes, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from streamtask.errors import ConfigurationError, StreamtaskError, TransportError
from streamtask.settings import WorkerSettings
from streamtask.telemetry import logs
from streamtask.worker.parent import SupervisorLink
from streamtask.worker.variables import BROKER_VARIABLE

try:
    import uvloop
except ImportError:  # an extra
    _new_loop = None
else:
    _new_loop = uvloop.new_event_loop

log = logging.getLogger(__name__)

#: Seconds between two attempts to connect at the start.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


async def consume(app: Any, options: dict[str, Any], supervisor: SupervisorLink | None) -> None:
    """Consume until SIGTERM or SIGINT, or until a burst is done."""
    settings = WorkerSettings(
        concurrency=options["concurrency"],
        groups=tuple(options["groups"]),
        streams=tuple(name.removeprefix("stream:") for name in options["streams"]),
        burst=options["burst"],
        shutdown_timeout=options["shutdown_timeout"],
        lease=options["lease"],
        max_memory=options["max_memory"],
    )
    await _patiently(app.__aenter__)
    try:
        worker = app.make_worker(settings, supervisor=supervisor)
        await _patiently(worker.connect)
        # Before signals are ours: who is told to end while a model loads ends at once, and holds nothing.
        await worker.prepare()
        stop = _stop_on_signals(worker)
        await worker.start()
        duties = [asyncio.create_task(stop.wait()), asyncio.create_task(worker.failed())]
        if settings.burst:
            duties.append(asyncio.create_task(worker.burst_done()))
        if options["metrics_port"] is not None:
            probes = importlib.import_module("streamtask.worker.probes")
            duties.append(asyncio.create_task(probes.serve(worker, options["metrics_port"], supervisor)))
        ended, others = await asyncio.wait(duties, return_when=asyncio.FIRST_COMPLETED)
        await worker.stop()
        for duty in others:
            duty.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    finally:
        await app.__aexit__()
    for duty in ended:
        duty.result()
    if worker.still_running:
        # A thread, or a coroutine that ignores its cancellation, would keep this process for as long as it likes. Its
        # event has been handed back: it must not run on beside its successor.
        logging.shutdown()
        os._exit(0)


async def _patiently(connect: Callable[[], Awaitable[object]]) -> None:
    """Wait for the broker: one that is down, loads its data or takes no writes is no reason to end."""
    pause = _FIRST_PAUSE
    while True:
        try:
            await connect()
        except TransportError as error:
            log.warning("worker.waits_for_broker", extra={"error": str(error), "again_in": pause})
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return


def _stop_on_signals(worker: Any) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; a second one leaves running handlers no more time."""
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            worker.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return stop


def main(argument: str) -> int:
    """Exit codes: 0 ended in order, 1 failed, 2 the program or its settings are wrong."""
    options = json.loads(argument)
    supervisor = SupervisorLink.from_environment(os.environ)
    if supervisor is not None:
        supervisor.die_with_supervisor()
    logs.configure(options["log_format"])
    try:
        # By name: the app stands above the worker, and this module is where a process begins, not a part of either.
        loading = importlib.import_module("streamtask.loading")
        app = loading.load_app(options["app"], broker=os.environ.pop(BROKER_VARIABLE, None))
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(consume(app, options, supervisor))
    except ConfigurationError as error:
        # No traceback: the message says what is wrong and where.
        log.error("worker.misconfigured", extra={"error": str(error)})  # noqa: TRY400
        return 2
    except StreamtaskError as error:
        log.error("worker.failed", extra={"error": str(error)})  # noqa: TRY400 - the duty has logged its traceback
        return 1
    return 0


if __name__ == "__main__":
    exit_code = main(sys.argv[1])
    logs.let_go()
    sys.exit(exit_code)
