"""Fixtures of the configuration's tests: those of the chaos tests."""

from tests.chaos.conftest import chance, ledger, measured, start_worker

__all__ = ["chance", "ledger", "measured", "start_worker"]
