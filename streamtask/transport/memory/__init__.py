"""The engine in this process: for tests, and the reference model that says what every other engine has to do.

Public here: `MemoryStore` (the "server") and `MemoryTransport` (a connection to it). Nothing is durable.
"""

from streamtask.transport.memory.store import MemoryStore
from streamtask.transport.memory.transport import MemoryTransport

__all__ = ["MemoryStore", "MemoryTransport"]
