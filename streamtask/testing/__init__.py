"""For tests of programs that use streamtask: their app in memory, time that stands still, handlers run eagerly, faults.

Public here: what `__all__` names, and `streamtask.testing.faults`. Nothing that runs in production imports it.
"""

from streamtask.testing.clock import FrozenClock
from streamtask.testing.eager import Handled, RecordedContext, make_context
from streamtask.testing.memory import DeadLettersError, InMemoryApp, eager, in_memory

__all__ = [
    "DeadLettersError",
    "FrozenClock",
    "Handled",
    "InMemoryApp",
    "RecordedContext",
    "eager",
    "in_memory",
    "make_context",
]
