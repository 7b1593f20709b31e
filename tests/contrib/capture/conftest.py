"""The broker of the bots' tests."""

from tests.chaos.conftest import measured
from tests.contrib.bot.conftest import broker

__all__ = ["broker", "measured"]
