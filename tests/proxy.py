"""A network between clients and a server that does what networks do: a TCP proxy whose faults are set while it runs.

It listens on a free port of the loopback interface, in front of a server's unix socket. It runs on the event loop of
the test, and forwards bytes; what they mean is nobody's business here, but for `loses`, which picks a request.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

#: Bytes of a segment, and segments that are under way between two ends at most.
_SEGMENT = 1400
_WAITING = 64
#: Seconds since its last bytes in which a connection is in use: a worker's all are once a second.
_IN_USE = 1.5
#: On close: send what is called a reset, instead of the rest.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a unix socket. Use it with `async with`."""

    def __init__(self, target: Path, chance: random.Random) -> None:
        self.target = target
        self.chance = chance
        #: Seconds that a byte takes one way, give or take.
        self.latency = 0.0
        self.jitter = 0.0
        #: The chance that a segment is lost, and the seconds after which it is sent again.
        self.loss = 0.0
        self.resend_after = 0.3
        #: Bytes a second, in each direction of each connection.
        self.bandwidth: float | None = None
        #: Of these requests the server's reply never comes: the connection is reset instead.
        self.loses: Callable[[bytes], bool] | None = None
        #: Connections that were reset, for whatever reason.
        self.resets = 0
        self.audible = asyncio.Event()
        self.audible.set()
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._is_over = False

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """What a transport connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and drop every connection."""
        assert self._server is not None
        self._server.close()
        self._is_over = True
        tasks = list(self._links.values())
        for link, task in self._links.items():
            task.cancel()
            # One that has not begun yet puts nothing away.
            link.hang_up()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def reset_one(self, within: int = 2000) -> None:
        """Reset a connection that is in use once it has carried some more bytes, in the middle of whatever that is."""
        lately = asyncio.get_running_loop().time() - _IN_USE
        links = [link for link in self._links if link.carried_at > lately and link.resets_in is None]
        if links:
            self.chance.choice(links).resets_in = self.chance.randrange(1, within)

    def fall_silent(self) -> None:
        """Lose every packet, as a firewall does that has forgotten its connections: neither end is told.

        The connections that there are stay dead for good. Those that are made now come through once it is over.
        """
        self.audible.clear()
        for link in self._links:
            link.is_dead = True

    def heal(self) -> None:
        """Let new connections through."""
        self.audible.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_over:
            # The end of the test is the end of the network.
            writer.transport.abort()
            return
        link = _Link(self, reader, writer)
        self._links[link] = asyncio.create_task(self._carry(link))

    async def _carry(self, link: _Link) -> None:
        try:
            with suppress(asyncio.CancelledError, ConnectionError):
                await link.run()
        finally:
            del self._links[link]


class _Link:
    """One connection of a client, and ours to the server."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.is_dead = False
        #: Bytes after which it is reset, in whichever direction they go.
        self.resets_in: int | None = None
        self.carried_at = 0.0
        #: The server's next words are the lost reply.
        self._reply_is_lost = False
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Carry bytes until one side ends."""
        upstream: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.proxy.audible.wait()
            reader, upstream = await asyncio.open_unix_connection(str(self.proxy.target))
            up: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
            down: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
            carriers = (
                self._write(up, upstream),
                self._write(down, self._writer),
                self._read(self._reader, up, self._see_request),
                self._read(reader, down, self._see_reply),
            )
            tasks += [asyncio.create_task(carrier) for carrier in carriers]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # At once: who is cancelled while it waits for its tasks does nothing behind that.
            self.hang_up()
            if upstream is not None:
                upstream.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """Drop the client."""
        self._writer.transport.abort()

    async def _read(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], see: Callable[[bytes], bool]
    ) -> None:
        """Take bytes in, and say when they arrive; no bytes are the end."""
        loop, network = asyncio.get_running_loop(), self.proxy
        arrives, data = loop.time(), b"-"
        while data:
            try:
                data = await reader.read(_SEGMENT)
            except ConnectionError:
                data = b""
            if self.is_dead:
                # Nobody at the other end is told of an end, either.
                continue
            if not see(data):
                data = b""
            delay = network.latency + network.chance.uniform(-network.jitter, network.jitter)
            if network.chance.random() < network.loss:
                delay += network.resend_after
            if network.bandwidth is not None:
                arrives = max(arrives, loop.time()) + len(data) / network.bandwidth
            # In order, as TCP has it: one that is late holds up those behind it.
            arrives = max(arrives, loop.time() + delay)
            await queue.put((arrives, data))

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """Hand bytes over when they arrive, until the end or a reset."""
        while True:
            arrives, data = await queue.get()
            await asyncio.sleep(arrives - asyncio.get_running_loop().time())
            if self.is_dead:
                continue
            if not data:
                return
            if self.resets_in is not None and len(data) >= self.resets_in:
                writer.write(data[: self.resets_in])
                self._reset()
                return
            if self.resets_in is not None:
                self.resets_in -= len(data)
            self.carried_at = asyncio.get_running_loop().time()
            writer.write(data)
            await writer.drain()

    def _see_request(self, data: bytes) -> bool:
        loses = self.proxy.loses
        if loses is not None and loses(data):
            self._reply_is_lost = True
        return True

    def _see_reply(self, _: bytes) -> bool:
        """Whether the client is to see it."""
        if self._reply_is_lost:
            self._reset()
        return not self._reply_is_lost

    def _reset(self) -> None:
        self.proxy.resets += 1
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
