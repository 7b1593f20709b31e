"""The code that trained the shipped models is in the repository, not in the package: tests find it here."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that where the package is installed, it is the installed one that is tested.
sys.path.append(str(Path(__file__).parents[2] / "contrib"))
