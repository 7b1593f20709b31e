"""Monitoring: what is usual of groups and services, what is not, and who is told.

    streamtask worker -A streamtask_contrib.monitoring:app

The board (`monitoring.board`) reads records only, and needs no extra.
"""

from __future__ import annotations

from streamtask import App


def __getattr__(name: str) -> App:
    # Made when it is asked for: importing this package reads no environment, and needs nothing that is optional.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streamtask_contrib.monitoring.application import make_app  # noqa: PLC0415 - as above: the API has no such extra

    globals()["app"] = app = make_app()
    return app
