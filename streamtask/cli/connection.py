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
from streamtask.transport.connect import DEFAULT_URL, Connector, Durability, broker_url

_Answer = TypeVar("_Answer")


def ask(reference: str | None, broker: str | None, question: Callable[[Inspector], Awaitable[_Answer]]) -> _Answer:
    """Connect to the broker of an app, or to the one given, and ask it something."""
    rules: Broker | None = None
    url = broker_url(broker)
    durability: Durability = "none"
    if reference:
        app = load_app(reference, broker=broker)
        url, durability, rules = app.url, app.durability, app.broker
    check_shared(url)

    async def answer() -> _Answer:
        async with _inspector(Connector(url, durability=durability), rules) as inspector:
            return await question(inspector)

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
async def _inspector(connector: Connector, rules: Broker | None) -> AsyncIterator[Inspector]:
    try:
        # In a thread: an embedded server may have to start.
        transport = await asyncio.to_thread(connector.open)
        try:
            await transport.connect()
            yield Inspector(Connection(transport, rules))
        finally:
            await transport.close()
    finally:
        connector.close()
