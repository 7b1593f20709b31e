"""Which characters of a foreign text are not shown as they are. A module of its own: a worker is to start fast."""

from __future__ import annotations

import re

#: What ends a line, drives a terminal, reorders what is shown, or cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
