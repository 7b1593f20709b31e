"""How far workflows are, and the values of their groups."""

from __future__ import annotations

from collections.abc import Callable

from streamtask.transport.memory.store import MemoryStore, StreamState
from streamtask.transport.values import Result, Step


class MemoryWorkflows:
    """See `port.Workflows`."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def begin(self, stream: str, workflow: str, definition: bytes, *, ttl: float) -> None:
        """Keep what a workflow is made of."""
        with self._store.lock:
            now, state = self._clock(), self._store.stream(stream)
            state.definitions.put(workflow, definition, now + ttl, now)

    async def states(self, stream: str, workflow: str) -> tuple[bytes, dict[str, str]] | None:
        """What it is made of, and the states of its calls."""
        with self._store.lock:
            now, state = self._clock(), self._store.find(stream)
            definition = state.definitions.get(workflow, now)
            return None if definition is None else (definition, dict(state.steps.get(workflow, now) or {}))

    async def values(self, stream: str, group: str) -> dict[int, bytes]:
        """The values of a group that have come so far."""
        with self._store.lock:
            return dict(self._store.find(stream).values.get(group, self._clock()) or {})

    async def cancel(self, stream: str, workflow: str, result: Result | None, *, ttl: float) -> bool:
        """Cancel all calls of a workflow, and say so to who waits, unless it has a result."""
        now = self._clock()
        with self._store.lock:
            state = self._store.stream(stream)
            state.cancelled.put(workflow, value=True, until=now + ttl, now=now)
            if result is not None and state.results.get(result.event_id, now) is not None:
                return False
            if result is not None:
                self._store.keep(stream, result, now)
            return True


def is_over(state: StreamState, step: Step | None, now: float) -> bool:
    """Whether the call has been done by another entry."""
    return step is not None and (state.steps.get(step.workflow, now) or {}).get(step.name) == "done"


def go_on(store: MemoryStore, stream: str, step: Step, now: float) -> None:
    """What the end of a call means to its workflow."""
    state, until = store.stream(stream), now + step.ttl
    states = (state.steps.get(step.workflow, now) or {}) | {step.name: step.state}
    state.steps.put(step.workflow, states, until, now)
    definition = state.definitions.get(step.workflow, now)
    if definition is not None:
        state.definitions.put(step.workflow, definition, until, now)
    if step.result is not None:
        store.keep(stream, step.result, now)
    member = step.member
    if member is None:
        return
    before = state.values.get(member.group, now) or {}
    state.values.put(member.group, before | {member.index: member.value}, until, now)
    if member.index not in before and len(before) + 1 == member.size:
        for emit in member.emits:
            store.publish(emit, now)
        if member.result is not None:
            store.keep(stream, member.result, now)
