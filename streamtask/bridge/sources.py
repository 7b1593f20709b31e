"""Where a bridge takes messages from: a queue in Redis as kombu lays it out, or in any other broker that kombu knows.

A message that was taken is still the broker's until `done` or `put_aside`: a bridge that is killed loses none, and the
next one gets it again.

kombu's own way of taking from Redis is not used. It pops a message first and notes second that somebody has it, so that
a consumer that is killed in between has taken the message with it. Here one script moves messages to a list of those in
hand. Celery's workers may go on taking from the same queue.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import msgspec
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import KombuError
from kombu.messaging import Consumer, Producer

from streamtask.bridge.messages import CeleryMessage
from streamtask.errors import ConfigurationError, TransportError
from streamtask.redact import mask_url

#: Seconds that `take` waits for a first message.
WAIT = 1.0
#: Messages that a broker hands over before they are asked for.
_PREFETCHED = 200
#: Seconds between two looks at an empty queue of Redis.
_LOOK = 0.2
#: Seconds in which what follows a first message is taken along with it.
_SOON = 0.02
#: By kombu's driver: a server that hangs is an error, and so is a message that it did not take.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "redis": {"socket_timeout": 10.0, "socket_connect_timeout": 5.0},
    "amqp": {"confirm_publish": True},
}
#: Header of a message that was put aside: why.
REASON = "streamtask_refused"

#: Moves up to ARGV[1] messages to the list of those in hand, KEYS[1], from the queue's lists, most urgent first.
_TAKE = """
local taken = {}
for place = 2, #KEYS do
    while #taken < tonumber(ARGV[1]) do
        local message = redis.call('RPOPLPUSH', KEYS[place], KEYS[1])
        if not message then break end
        taken[#taken + 1] = message
    end
end
return taken
"""
#: What is in hand, newest first: of a bridge that was killed, or of one that works at this moment. To carry that over a
#: second time does no harm.
_IN_HAND = "return redis.call('LRANGE', KEYS[1], 0, -1)"
_DONE = "return redis.call('LREM', KEYS[1], -1, ARGV[1])"
#: Only who still has it puts it aside: of two bridges with one message, one.
_PUT_ASIDE = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return 1
"""


class Taken(msgspec.Struct, frozen=True, eq=False):
    """A message in hand, and what its source knows it by."""

    message: CeleryMessage | None
    known_as: Any


class Source(Protocol):
    """One queue. Every method raises TransportError where the broker cannot be used; then the source is done for."""

    def take(self, most: int, *, wait: float = WAIT) -> list[Taken]:
        """Messages, oldest first; none where the queue is empty.

        `wait`: seconds to wait for a first one. A broker that hands over by itself is given `WAIT` in any case.
        """

    def done(self, taken: Taken) -> None:
        """It has become an event, or is over: the broker may forget it."""

    def put_aside(self, taken: Taken, reason: str) -> None:
        """Move it to the queue of those that cannot become events, whole, so that Celery can still run it."""

    def close(self) -> None:
        """Hang up. What is in hand goes back."""


def open_source(url: str, queue: str, options: Mapping[str, Any]) -> Source:
    """Connect to a queue. `options`: Celery's `broker_transport_options`.

    Raises:
        ConfigurationError: the URL names no transport that can be used here.
        TransportError: the broker cannot be reached.
    """
    try:
        connection = Connection(url, transport_options=dict(options), connect_timeout=5)
        driver = connection.transport.driver_type
    except (ImportError, AttributeError) as error:
        # Without redis-py, kombu fails at the first attribute of it.
        raise ConfigurationError(
            f"--from {mask_url(url)}: kombu's driver for it is not installed; for Redis: pip install '.[bridge]' in a "
            "checkout of streamtask"
        ) from error
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"--from {mask_url(url)}: kombu cannot use it: {error}") from error
    connection.transport_options = {**_DEFAULTS.get(driver, {}), **options}
    with _trouble_told(connection):
        return RedisSource(connection, queue) if driver == "redis" else QueueSource(connection, queue)


def aside(queue: str) -> str:
    """The queue of those that cannot become events."""
    return f"{queue}.unbridged"


class RedisSource:
    """A queue in Redis: a list for each priority, newest first; a message is JSON around a body in base64."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection = connection
        channel: Any = connection.channel()
        prefix = channel.global_keyprefix
        # With EVAL alone: kombu's client puts the prefix before the keys of some commands, and not of others.
        self._client: Any = channel.client
        self._queues = [
            f"{prefix}{queue}{channel.sep}{step}" if step else f"{prefix}{queue}" for step in channel.priority_steps
        ]
        self._hand = f"{prefix}{queue}.bridging"
        self._aside = f"{prefix}{aside(queue)}"
        self._left: list[bytes] = self._in_hand()

    def take(self, most: int, *, wait: float = WAIT) -> list[Taken]:
        """See `Source.take`."""
        deadline = time.monotonic() + wait
        with _trouble_told(self._connection):
            while not self._left:
                self._left = self._ask(_TAKE, (self._hand, *self._queues), most)
                if self._left:
                    break
                if time.monotonic() >= deadline:
                    self._left = self._in_hand()
                    break
                time.sleep(_LOOK)
        given, self._left = self._left[:most], self._left[most:]
        return [self._read(raw) for raw in given]

    def done(self, taken: Taken) -> None:
        """See `Source.done`."""
        with _trouble_told(self._connection):
            self._ask(_DONE, (self._hand,), taken.known_as)

    def put_aside(self, taken: Taken, reason: str) -> None:
        """See `Source.put_aside`."""
        kept: bytes | str = taken.known_as
        if taken.message is not None:
            payload = json.loads(taken.known_as)
            payload["headers"][REASON] = reason
            kept = json.dumps(payload)
        with _trouble_told(self._connection):
            self._ask(_PUT_ASIDE, (self._hand, self._aside), taken.known_as, kept)

    def close(self) -> None:
        """See `Source.close`. What is in hand stays in its list, where the next bridge finds it."""
        with suppress(*_errors(self._connection)):
            self._connection.release()

    def _in_hand(self) -> list[bytes]:
        return list(reversed(self._ask(_IN_HAND, (self._hand,))))

    def _ask(self, script: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        return self._client.execute_command("EVAL", script, len(keys), *keys, *arguments)

    def _read(self, raw: bytes) -> Taken:
        # Not by kombu's class of messages, which decompresses without a bound.
        try:
            payload = json.loads(raw)
            body = payload["body"].encode()
            if payload["properties"].get("body_encoding") == "base64":
                body = base64.b64decode(body)
            return Taken(
                _message(payload.get("headers"), body, payload["content-type"], payload["content-encoding"]), raw
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            return Taken(None, raw)


class QueueSource:
    """A queue of a broker that knows itself who has which message, as RabbitMQ does."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection = connection
        channel = connection.channel()
        self._aside = Queue(aside(queue), routing_key=aside(queue), durable=True)
        self._producer = Producer(channel)
        self._got: list[Any] = []
        # As it is: to declare it otherwise than Celery did is an error.
        named = Queue(queue, no_declare=True)
        self._consumer = Consumer(
            channel, queues=[named], on_message=self._got.append, auto_declare=False, prefetch_count=_PREFETCHED
        )
        self._consumer.consume()

    def take(self, most: int, *, wait: float = WAIT) -> list[Taken]:
        """See `Source.take`."""
        wait = max(wait, WAIT)
        with _trouble_told(self._connection):
            while len(self._got) < most:
                try:
                    self._connection.drain_events(timeout=wait)
                except TimeoutError:
                    break
                wait = _SOON
        given, self._got[:] = self._got[:most], self._got[most:]
        return [Taken(_plain(message), message) for message in given]

    def done(self, taken: Taken) -> None:
        """See `Source.done`."""
        with _trouble_told(self._connection):
            taken.known_as.ack()

    def put_aside(self, taken: Taken, reason: str) -> None:
        """See `Source.put_aside`. Killed between the two, there are two of it."""
        message = taken.known_as
        with _trouble_told(self._connection):
            self._producer.publish(
                message.body,
                routing_key=self._aside.name,
                declare=[self._aside],
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers={**_headers(message), REASON: reason},
                correlation_id=message.properties.get("correlation_id"),
                reply_to=message.properties.get("reply_to"),
            )
            message.ack()

    def close(self) -> None:
        """See `Source.close`."""
        with suppress(*_errors(self._connection)):
            self._connection.release()


def _plain(message: Any) -> CeleryMessage:
    body = message.body
    encoded = body.encode() if isinstance(body, str) else bytes(body)
    return _message(_headers(message), encoded, message.content_type, message.content_encoding)


def _headers(message: Any) -> dict[str, Any]:
    """Its headers as they are true of its body, which kombu has decompressed if it could."""
    return {name: value for name, value in message.headers.items() if name != "compression" or message.errors}


def _message(headers: Any, body: bytes, content_type: str | None, content_encoding: str | None) -> CeleryMessage:
    return CeleryMessage(
        headers=headers if isinstance(headers, dict) else {},
        body=body,
        content_type=str(content_type or ""),
        content_encoding=str(content_encoding or "utf-8"),
    )


def _errors(connection: Connection) -> tuple[type[BaseException], ...]:
    """What a broker's library raises. KeyError is no part of it here: it would hide our own."""
    named = (*connection.connection_errors, *connection.channel_errors, KombuError, OSError)
    return tuple(each for each in named if each is not KeyError)


@contextmanager
def _trouble_told(connection: Connection) -> Iterator[None]:
    try:
        yield
    except _errors(connection) as error:
        raise TransportError(f"Celery's broker cannot be used now: {error}") from error
