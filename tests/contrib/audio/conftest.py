"""Fixtures of the audio worker's tests."""

from tests.chaos.conftest import measured

__all__ = ["measured"]
