from streamtask.app import App
from streamtask.blobs import BlobStores
from streamtask.context import Application, BatchContext, Context, PublishOptions
from streamtask.dependencies import Depends
from streamtask.envelope import Envelope, StoredEnvelope
from streamtask.errors import (
    BatchError,
    BlobError,
    BlobMissingError,
    BlobRefusedError,
    BlobTooLargeError,
    ConfigurationError,
    EnvelopeError,
    EventRefusedError,
    HandlerTimeoutError,
    PublishError,
    Reject,
    ResultTimeoutError,
    RetryLater,
    SoftTimeoutError,
    StoreFullError,
    StreamtaskError,
    TaskCancelledError,
    TaskFailedError,
    TransportError,
)
from streamtask.event import Event
from streamtask.gating import Concurrency
from streamtask.handler import Batch, DeadEvent, Timeout
from streamtask.inspector import Inspector
from streamtask.middleware import ConsumeNext, Middleware, PublishNext
from streamtask.rates import RateLimit
from streamtask.records import Records
from streamtask.retry import Backoff, Retry
from streamtask.router import Router
from streamtask.rules import Tick
from streamtask.settings import Retention
from streamtask.task import Handle, Task
from streamtask.transport.values import Progress
from streamtask.workflow import FailedCall, Signature, Workflow, WorkflowHandle, chain, chord, group

__all__ = [
    "App",
    "Application",
    "Backoff",
    "Batch",
    "BatchContext",
    "BatchError",
    "BlobError",
    "BlobMissingError",
    "BlobRefusedError",
    "BlobStores",
    "BlobTooLargeError",
    "Concurrency",
    "ConfigurationError",
    "ConsumeNext",
    "Context",
    "DeadEvent",
    "Depends",
    "Envelope",
    "EnvelopeError",
    "Event",
    "EventRefusedError",
    "FailedCall",
    "Handle",
    "HandlerTimeoutError",
    "Inspector",
    "Middleware",
    "Progress",
    "PublishError",
    "PublishNext",
    "PublishOptions",
    "RateLimit",
    "Records",
    "Reject",
    "ResultTimeoutError",
    "Retention",
    "Retry",
    "RetryLater",
    "Router",
    "Signature",
    "SoftTimeoutError",
    "StoreFullError",
    "StoredEnvelope",
    "StreamtaskError",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "Tick",
    "Timeout",
    "TransportError",
    "Workflow",
    "WorkflowHandle",
    "chain",
    "chord",
    "group",
]
