"""Environment variables by which the processes of one worker know of each other. Read at each start: no `typing`.

The supervisor, which imports nothing of ours, has copies of the names that it sets.
"""

from __future__ import annotations

PID_VARIABLE = "STREAMTASK_SUPERVISOR_PID"
PLACE_VARIABLE = "STREAMTASK_PLACE"
CONTROL_VARIABLE = "STREAMTASK_CONTROL_FD"
STARTED_VARIABLE = "STREAMTASK_STARTED_FD"
LIFELINE_VARIABLE = "STREAMTASK_LIFELINE_FD"
#: The broker of the command line: an argument could be read by every user of the machine.
BROKER_VARIABLE = "STREAMTASK_WORKER_BROKER"
