"""streamtask: typed events on Redis Streams. Nothing is lost, a killed worker's events are back in seconds.

A name is imported when it is asked for: `streamtask worker`, which only starts a supervisor, does not pay for all of
it. `__init__.pyi` says the same to type checkers.
"""

from importlib import import_module

_HOMES = {
    "App": "streamtask.app",
    "Application": "streamtask.context",
    "Backoff": "streamtask.retry",
    "Batch": "streamtask.handler",
    "BatchContext": "streamtask.context",
    "BatchError": "streamtask.errors",
    "BlobError": "streamtask.errors",
    "BlobMissingError": "streamtask.errors",
    "BlobRefusedError": "streamtask.errors",
    "BlobStores": "streamtask.blobs",
    "BlobTooLargeError": "streamtask.errors",
    "Concurrency": "streamtask.gating",
    "ConfigurationError": "streamtask.errors",
    "ConsumeNext": "streamtask.middleware",
    "Context": "streamtask.context",
    "DeadEvent": "streamtask.handler",
    "Depends": "streamtask.dependencies",
    "Envelope": "streamtask.envelope",
    "EnvelopeError": "streamtask.errors",
    "Event": "streamtask.event",
    "EventRefusedError": "streamtask.errors",
    "FailedCall": "streamtask.workflow",
    "Handle": "streamtask.task",
    "HandlerTimeoutError": "streamtask.errors",
    "Inspector": "streamtask.inspector",
    "Middleware": "streamtask.middleware",
    "Progress": "streamtask.transport.values",
    "PublishError": "streamtask.errors",
    "PublishNext": "streamtask.middleware",
    "PublishOptions": "streamtask.context",
    "RateLimit": "streamtask.rates",
    "Records": "streamtask.records",
    "Reject": "streamtask.errors",
    "ResultTimeoutError": "streamtask.errors",
    "Retention": "streamtask.settings",
    "Retry": "streamtask.retry",
    "RetryLater": "streamtask.errors",
    "Router": "streamtask.router",
    "Signature": "streamtask.workflow",
    "SoftTimeoutError": "streamtask.errors",
    "StoreFullError": "streamtask.errors",
    "StoredEnvelope": "streamtask.envelope",
    "StreamtaskError": "streamtask.errors",
    "Task": "streamtask.task",
    "TaskCancelledError": "streamtask.errors",
    "TaskFailedError": "streamtask.errors",
    "Tick": "streamtask.rules",
    "Timeout": "streamtask.handler",
    "TransportError": "streamtask.errors",
    "Workflow": "streamtask.workflow",
    "WorkflowHandle": "streamtask.workflow",
    "chain": "streamtask.workflow",
    "chord": "streamtask.workflow",
    "group": "streamtask.workflow",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list, made


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamtask' has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
