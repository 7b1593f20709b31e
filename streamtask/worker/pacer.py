"""Starts of limited handlers (`rate_limit=`): asked for across all workers, and waited for. Runs nothing.

The event comes first and its start second: nobody asks for a start who could not use it, so none is saved up. What has
to wait stands aside and holds no slot. A start that comes too late, because this process stood still, is given up and
asked for anew: it would be one of too many. While the server is away nothing starts: an outage is no permission.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from streamtask.broker import Run
from streamtask.rates import SLACK, RateLimit
from streamtask.transport.port import Rates
from streamtask.transport.values import Delivery, Start, Turn
from streamtask.worker.outage import Outage

#: Seconds ahead that a start is reserved at most: less than what a delivery may wait here without a slot.
_AHEAD = 0.5
#: The longest time after which is asked again, in seconds.
_LONGEST = 3600.0
#: Seconds that a start may be late: what is left of the slack is for what comes between us and the handler.
_LATE = SLACK * 2 / 3
#: Starts that are asked for at once.
_BATCH = 500
#: Seconds' worth of starts that one worker takes in ahead, and how many these are at most.
_INTAKE = 0.1
_MOST = 400
#: Seconds for which other handlers of a stream wait at most when a limited one can take no more: as for `concurrency=`.
_PAUSE = 0.6
#: How far an answer that took longer than others moves what an answer is known to take.
_EASE = 0.1


class _Ask(msgspec.Struct, eq=False):
    """A start that is asked for, and what is called with the answer and the last moment at which it is good."""

    run: Run
    start: Start
    answered: Callable[[Turn, float], None]


class Pacer:
    """Asks for the starts of those handlers whose limits stand beside one stream.

    `go` is called with a run that stood aside when its time has come, `too_far` with one that has to come back later,
    and in how many seconds; `changed` when more of what is limited may be taken in. `paces` are those of the handlers.
    """

    def __init__(
        self,
        rates: Rates,
        stream: str,
        *,
        paces: Mapping[int, Pace],
        outage: Outage,
        go: Callable[[Run], None],
        too_far: Callable[[Run, float], None],
        changed: Callable[[], None],
    ) -> None:
        self._rates = rates
        self._stream = stream
        self._paces = paces
        self._outage = outage
        self._go = go
        self._too_far = too_far
        self._changed = changed
        self._asking: dict[Delivery, _Ask] = {}
        self._some = asyncio.Event()
        #: Starts that were reserved for who stands aside: the last moment at which each is good.
        self._good_until: dict[Delivery, float] = {}
        #: Seconds that an answer takes while nothing holds it up; None: there was none yet.
        self._trip: float | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Ask for what is wanted, until cancelled: all that came up in one turn of the loop at once."""
        while True:
            await self._some.wait()
            await asyncio.sleep(0)
            if not self._asking:
                self._some.clear()
                continue
            asks, turns, asked_at = await self._outage.outlast(self._ask)
            trip = time.monotonic() - asked_at
            self._trip = trip if self._trip is None else min(trip, self._trip + _EASE * (trip - self._trip))
            for (delivery, ask), turn in zip(asks, turns, strict=True):
                # Who has left meanwhile wastes a start, and nothing else.
                if self._asking.get(delivery) is ask:
                    del self._asking[delivery]
                    self._note(ask.run, turn)
                    ask.answered(turn, asked_at + self._trip + turn.wait + _LATE)

    async def _ask(self) -> tuple[list[tuple[Delivery, _Ask]], list[Turn], float]:
        asks, asked_at = list(self._asking.items())[:_BATCH], time.monotonic()
        starts = [ask.start for _, ask in asks]
        turns = await self._rates.reserve(self._stream, starts, ahead=_AHEAD, longest=_LONGEST) if starts else []
        return asks, turns, asked_at

    def _note(self, run: Run, turn: Turn) -> None:
        pace = self._paces[id(run.handler)]
        if turn.is_reserved:
            pace.starts(turn.wait)
        else:
            pace.is_full(turn.wait)
        if pace.is_shared:
            now = time.monotonic()
            for moment in {pace.paused, pace.until}:
                if moment > now:
                    self._loop.call_later(moment - now, self._changed)

    def step_aside(self, run: Run, start: Start) -> None:
        """Have `go` or `too_far` called for a run, unless it leaves before."""

        def answered(turn: Turn, good_until: float) -> None:
            if turn.is_reserved:
                self._good_until[run.delivery] = good_until
                self._loop.call_later(turn.wait, self._time_has_come, run)
            else:
                self._too_far(run, turn.wait)

        self._want(_Ask(run, start, answered))

    def _time_has_come(self, run: Run) -> None:
        if run.delivery in self._good_until:
            self._go(run)

    def leave(self, delivery: Delivery) -> None:
        """It waits no longer."""
        self._asking.pop(delivery, None)
        self._good_until.pop(delivery, None)

    def may_start(self, delivery: Delivery) -> bool:
        """Whether a run may start now, because its time has just come; asked once."""
        return time.monotonic() <= self._good_until.pop(delivery, 0.0)

    async def turn(self, run: Run, start: Start) -> float | None:
        """Wait until a run may start, in its slot. Or the seconds after which it has to come back."""
        while True:
            answer: asyncio.Future[tuple[Turn, float]] = self._loop.create_future()
            self._want(_Ask(run, start, lambda *told, answer=answer: _tell(answer, told)))
            try:
                turn, good_until = await answer
                if not turn.is_reserved:
                    return turn.wait
                await asyncio.sleep(turn.wait)
            finally:
                self._asking.pop(run.delivery, None)
            if self._closed:
                return 0.0
            if time.monotonic() <= good_until:
                return None

    def close(self) -> None:
        """Nothing starts any more: who waits in a slot comes back elsewhere."""
        self._closed = True
        for ask in self._asking.values():
            ask.answered(Turn(0.0, is_reserved=False), 0.0)

    def _want(self, ask: _Ask) -> None:
        self._asking[ask.run.delivery] = ask
        self._some.set()


def _tell(answer: asyncio.Future[tuple[Turn, float]], told: tuple[Turn, float]) -> None:
    if not answer.done():
        answer.set_result(told)


class Pace:
    """How much of one limited handler this worker takes in: what it can start soon, less where others are faster."""

    def __init__(self, rate: RateLimit) -> None:
        self._spacing = rate.spacing
        #: Each value has a limit of its own: there may always be one that is free.
        self.is_shared = rate.per is None
        self.most = max(1, min(_MOST, int(_INTAKE / rate.spacing))) if self.is_shared else _MOST
        self.allowed = self.most
        #: Monotonic: until when nothing more of it can start, and until when others wait for that, too.
        self.until = 0.0
        self.paused = 0.0

    def starts(self, wait: float) -> None:
        """A start was reserved, so many seconds from now."""
        if self.is_shared:
            self.allowed = min(self.most, self.allowed + 1)
            self.until = max(self.until, time.monotonic() + wait + self._spacing - _AHEAD)

    def is_full(self, wait: float) -> None:
        """A start was too far off."""
        if self.is_shared:
            now = time.monotonic()
            self.allowed = max(1, self.allowed // 2)
            self.until = max(self.until, now + wait)
            self.paused = now + min(wait, _PAUSE)


class Intake:
    """How much of a stream may be taken in, of which some handlers at least are limited.

    It comes in portions: a few at each of many starts would cost a round trip each.
    """

    def __init__(self, paces: Sequence[Pace], *, is_whole: bool) -> None:
        """`is_whole`: there are no other handlers."""
        self._paces = paces
        #: Whether nothing can be started of it while its limits are reached.
        self.is_whole = is_whole and all(pace.is_shared for pace in paces)
        #: Whose turn it is while something is due that has not been taken in yet.
        self._new_is_next = True

    def took(self, *, due: bool) -> None:
        """A portion was taken in."""
        self._new_is_next = due

    def room(self, waiting: int, *, due: bool, due_waits: bool, unlimited: int) -> int:
        """How much may be taken in, due or new, while so much waits for its start.

        `due_waits`: more is due than there was room for. `unlimited`: more than any worker takes in.
        """
        if not due and self._holds_new_back(due_waits=due_waits):
            return 0
        most = sum(pace.most if due else pace.allowed for pace in self._paces)
        if not self.is_whole:
            return unlimited if waiting < most else 0
        room = most - waiting
        return room if room * 2 >= most else 0

    def _holds_new_back(self, *, due_waits: bool) -> bool:
        if due_waits and not self._new_is_next:
            return True
        until = max(pace.paused for pace in self._paces)
        if self.is_whole:
            until = max(until, min(pace.until for pace in self._paces))
        return time.monotonic() < until
