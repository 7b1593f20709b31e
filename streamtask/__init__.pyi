from streamtask.app import App
from streamtask.context import Context
from streamtask.envelope import Envelope
from streamtask.errors import (
    ConfigurationError,
    EnvelopeError,
    EventRefusedError,
    HandlerTimeoutError,
    PublishError,
    Reject,
    RetryLater,
    SoftTimeoutError,
    StoreFullError,
    StreamtaskError,
    TransportError,
)
from streamtask.event import Event
from streamtask.handler import DeadEvent, Timeout
from streamtask.retry import Backoff, Retry
from streamtask.router import Router
from streamtask.settings import Retention

__all__ = [
    "App",
    "Backoff",
    "ConfigurationError",
    "Context",
    "DeadEvent",
    "Envelope",
    "EnvelopeError",
    "Event",
    "EventRefusedError",
    "HandlerTimeoutError",
    "PublishError",
    "Reject",
    "Retention",
    "Retry",
    "RetryLater",
    "Router",
    "SoftTimeoutError",
    "StoreFullError",
    "StreamtaskError",
    "Timeout",
    "TransportError",
]
