"""Environment variables by which the processes of one worker know of each other.

The supervisor, which imports nothing of ours, has copies of the names that it sets.
"""

from __future__ import annotations

from typing import Final

PID_VARIABLE: Final = "STREAMTASK_SUPERVISOR_PID"
PLACE_VARIABLE: Final = "STREAMTASK_PLACE"
CONTROL_VARIABLE: Final = "STREAMTASK_CONTROL_FD"
STARTED_VARIABLE: Final = "STREAMTASK_STARTED_FD"
LIFELINE_VARIABLE: Final = "STREAMTASK_LIFELINE_FD"
#: The broker of the command line: an argument could be read by every user of the machine.
BROKER_VARIABLE: Final = "STREAMTASK_WORKER_BROKER"
