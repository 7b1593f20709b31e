"""The ticks of an app's rules in a memory: those whose moment has come by its clock, when somebody asks."""

from __future__ import annotations

from collections import defaultdict

from streamtask.app import App
from streamtask.event import describe
from streamtask.rules import Rule
from streamtask.telemetry.metrics import Metrics
from streamtask.testing.store import MemoryConnector
from streamtask.worker.ticker import Ticker


class Rules:
    """What one worker that lives for a whole test does about rules. They begin when it is first asked."""

    def __init__(self, app: App, memory: MemoryConnector) -> None:
        self._app = app
        self._memory = memory
        self._tickers: dict[str, Ticker] = {}

    async def tick(self) -> float | None:
        """Publish what is due; seconds until the next tick is. None: there are no rules."""
        by_stream: dict[str, list[Rule]] = defaultdict(list)
        for rule in self._app.rules:
            by_stream[describe(rule.task.event).stream].append(rule)
        waits = []
        for stream, rules in by_stream.items():
            if stream not in self._tickers:
                transport = self._memory.open()
                self._tickers[stream] = Ticker(transport, self._app.broker, stream, rules, Metrics())
            waits.append(await self._tickers[stream].look(self._memory.schedule))
        return min(waits, default=None)
