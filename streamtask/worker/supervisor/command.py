"""The process: its settings, its log, its exit code."""

from __future__ import annotations

import json
import logging
import sys

from streamtask.worker.supervisor.lines import LineFormatter
from streamtask.worker.supervisor.settings import Settings
from streamtask.worker.supervisor.supervisor import Supervisor


def main(argument: str) -> int:
    """Run a supervisor with these settings, a JSON object."""
    settings = Settings(**json.loads(argument))
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=settings.log_format == "json"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # A log that cannot be written cannot be complained about in it, either: each line is tried once.
    logging.raiseExceptions = False
    exit_code = Supervisor(settings).run()
    try:
        sys.stderr.flush()
    except OSError:
        # Python would end with 120 where its last lines cannot be written, whatever the children have come to.
        sys.stderr = None
    return exit_code
