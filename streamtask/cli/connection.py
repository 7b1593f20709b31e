"""From the options of a command to a connected transport, and back to nothing when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import click

from streamtask.broker import Broker
from streamtask.errors import ConfigurationError, TransportError
from streamtask.inspector import Connection, Inspector
from streamtask.loading import load_app
from streamtask.redact import mask_url
from streamtask.transport.connect import DEFAULT_URL, Connector, broker_url
from streamtask.transport.port import Transport
from streamtask.transport.values import Durability

_Answer = TypeVar("_Answer")


def ask(
    reference: str | None,
    broker: str | None,
    question: Callable[[Inspector], Awaitable[_Answer]],
    *,
    as_durable: bool = False,
) -> _Answer:
    """Connect to the broker of an app, or to the one given, and ask it something.

    `as_durable`: what it changes has to be as durable as what the app publishes. Else a server can be asked that the
    app would refuse.
    """
    rules: Broker | None = None
    url = broker_url(broker)
    durability: Durability = "none"
    if reference:
        app = load_app(reference, broker=broker)
        url, durability, rules = app.url, app.durability, app.broker
    check_shared(url)

    async def answer() -> _Answer:
        async with _transport(Connector(url, durability=durability if as_durable else "none")) as transport:
            return await question(Inspector(Connection(transport, rules, durability=durability)))

    with trouble_told(url):
        return asyncio.run(answer())


def check_shared(url: str) -> None:
    """Refuse a broker that no other process can reach, and say which one it is where nobody named one.

    Raises ConfigurationError.
    """
    if url == DEFAULT_URL:
        click.echo("Using the embedded server of this folder (.streamtask): no broker URL was given.", err=True)
    if url.startswith("memory://"):
        raise ConfigurationError(
            "memory:// lives inside one process, and this is another: give --broker URL or set STREAMTASK_BROKER"
        )


@contextmanager
def trouble_told(url: str) -> Iterator[None]:
    """Say of the trouble of a connection which broker it was, and what to do."""
    try:
        yield
    except TransportError as error:
        raise TransportError(
            f"the broker {mask_url(url)} cannot be used for this ({error}): does it run, is the URL right (--broker, "
            "the app or $STREAMTASK_BROKER), and may this user do it?"
        ) from error


@asynccontextmanager
async def _transport(connector: Connector) -> AsyncIterator[Transport]:
    try:
        # In a thread: an embedded server may have to start.
        transport = await asyncio.to_thread(connector.open)
        try:
            await transport.connect()
            yield transport
        finally:
            await transport.close()
    finally:
        connector.close()
