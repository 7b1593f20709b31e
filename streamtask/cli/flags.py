"""The options of `streamtask worker`, told once: for click, which explains them, and for `quick`, which does not."""

from __future__ import annotations

import json
import os
import sys

# No `typing` and no `dataclasses`: they take as long as reading the whole command line.
Value = str | int | float | bool | list[str] | None


class Flag:
    """One option.

    `kind`: of its value; `bool` has none. `to`: the parameter that it is for. `least` and `most`: the range of a
    number. `choices`: all that it may be. `many`: it may be repeated. `short`: its other name. `variable`: of the
    environment, that stands for it.
    """

    def __init__(
        self,
        name: str,
        kind: type,
        help: str,  # noqa: A002 - click's word for it
        *,
        to: str = "",
        default: Value = None,
        least: float | None = None,
        most: float | None = None,
        choices: tuple[str, ...] = (),
        many: bool = False,
        short: str = "",
        variable: str | None = None,
        metavar: str | None = None,
        shows_default: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.to = to or name.removeprefix("--").replace("-", "_")
        self.default = default
        self.least = least
        self.most = most
        self.choices = choices
        self.many = many
        self.short = short
        self.variable = variable
        self.metavar = metavar
        self.shows_default = shows_default


FLAGS = (
    Flag("--app", str, "The app, as module:attribute.", to="reference", short="-A", variable="STREAMTASK_APP"),
    Flag("--broker", str, "Overrides the app's broker URL.", metavar="URL"),
    Flag("--group", str, "Only this group; repeatable.", to="groups", many=True),
    Flag("--stream", str, "Only this stream; repeatable.", to="streams", many=True),
    Flag("--concurrency", int, "Handlers at once.", default=100, least=1, shows_default=True),
    Flag("--processes", int, "Worker processes.", default=1, least=1, shows_default=True),
    Flag("--burst", bool, "Stop when nothing is ready, pending or due for retry.", default=False),
    Flag("--metrics-port", int, "Serve /metrics, /live and /ready on loopback.", least=0, most=65535),
    Flag("--reload", bool, "Start anew when a Python file below this folder changes.", default=False),
    Flag("--log-format", str, "", choices=("text", "json"), default="text", shows_default=True),
    Flag("--shutdown-timeout", float, "Seconds.", default=30.0, least=0, shows_default=True),
    Flag("--lease", float, "Seconds.", default=60.0, least=0.1, shows_default=True),
    Flag("--max-memory", int, "Replace a process that has more.", least=1, metavar="MIB"),
)


def supervisor_settings(options: dict[str, Value]) -> str:
    """What the supervisor is started with, as JSON, for options by their parameters; without the broker."""
    of_child = {
        name: value for name, value in options.items() if name not in ("reference", "broker", "processes", "reload")
    }
    child = json.dumps({"app": options["reference"], **of_child})
    return json.dumps(
        {
            "child": [sys.executable, "-m", "streamtask.worker.child", child],
            "processes": options["processes"],
            "shutdown_timeout": options["shutdown_timeout"],
            "slots": options["concurrency"],
            "reload": [os.getcwd()] if options["reload"] else None,
            "log_format": options["log_format"],
            "max_memory": options["max_memory"],
        }
    )
