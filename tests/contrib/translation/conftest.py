"""Fixtures of the tests that run real workers."""

from tests.chaos.conftest import ledger, measured, server_binary, start_worker

__all__ = ["ledger", "measured", "server_binary", "start_worker"]
