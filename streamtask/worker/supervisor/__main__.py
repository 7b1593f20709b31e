"""What `streamtask worker` becomes. Few lines: Python compiles anew what is run by path, and keeps what it imports."""

import os
import sys

# Last in the path, for a checkout that is not installed: nothing there can hide a module of the standard library.
sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from streamtask.worker.supervisor.command import main

sys.exit(main(sys.argv[1]))
