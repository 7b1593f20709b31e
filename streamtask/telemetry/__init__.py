"""What a running streamtask tells about itself: log lines and metrics.

Telemetry watches; it never changes what happens to a delivery, it knows no transport and no handler, and every layer
may call it.
"""

from __future__ import annotations

from streamtask.telemetry.logs import (
    Bound,
    ContextFilter,
    ContextLogger,
    JsonFormatter,
    TextFormatter,
    bind,
    configure,
    current,
    unbind,
)
from streamtask.telemetry.metrics import CONTENT_TYPE, OUTCOMES, TABLE, Metric, Metrics, SettledAs

__all__ = [
    "CONTENT_TYPE",
    "OUTCOMES",
    "TABLE",
    "Bound",
    "ContextFilter",
    "ContextLogger",
    "JsonFormatter",
    "Metric",
    "Metrics",
    "SettledAs",
    "TextFormatter",
    "bind",
    "configure",
    "current",
    "unbind",
]
