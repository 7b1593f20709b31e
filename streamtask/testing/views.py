"""A broker seen through a test: the same rules and handlers, some of its decisions made otherwise."""

from __future__ import annotations

from streamtask.broker import Broker


class BrokerView(Broker):
    """What another broker is; what is registered with either is registered with both."""

    def __init__(self, broker: Broker) -> None:
        # Not `super().__init__`: its handlers, classes and codec, not new ones.
        vars(self).update(vars(broker))
