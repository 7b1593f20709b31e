"""Publishing that waits for a replica: one WAIT for what is written together, and no yes without a replica's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import Argument, DisconnectedError, ServerError
from streamtask.transport.redis.replicated import NotReplicatedError, Replicated


class Server(Caller):
    """Answers a command with its second word, and WAIT with `copies`, once `answers` is set."""

    def __init__(self, copies: object = 1) -> None:
        self.copies = copies
        self.pipelines: list[list[Sequence[Argument]]] = []
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    @property
    def generation(self) -> int:
        return 1

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = 5.0) -> list[Any]:
        self.pipelines.append(list(commands))
        self.asked.set()
        await self.answers.wait()
        if isinstance(self.copies, TransportError) and not isinstance(self.copies, ServerError):
            raise self.copies
        return [self.copies if command[0] == "WAIT" else command[1] for command in commands]

    async def close(self) -> None:
        self.copies = DisconnectedError("the connection was closed")
        self.answers.set()


async def test_what_is_written_while_one_wait_is_under_way_shares_the_next() -> None:
    server = Server()
    replicated = Replicated(server, copies=1)

    calls = [asyncio.create_task(replicated.call("XADD", f"{n}")) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls += [asyncio.create_task(replicated.call("XADD", f"{n}")) for n in range(20, 40)]
    await asyncio.sleep(0)
    server.answers.set()

    assert await asyncio.gather(*calls) == [f"{n}" for n in range(40)]
    assert [[command[0] for command in pipeline].count("WAIT") for pipeline in server.pipelines] == [1, 1]
    assert all(pipeline[-1][0] == "WAIT" for pipeline in server.pipelines)
    written = [command[1] for pipeline in server.pipelines for command in pipeline[:-1]]
    assert written == [f"{n}" for n in range(40)]


@pytest.mark.parametrize("copies", [0, ServerError("ERR unknown command 'WAIT'")])
async def test_without_a_replicas_word_it_is_unknown_to_everybody_in_the_pipeline(copies: object) -> None:
    server = Server(copies)
    server.answers.set()
    replicated = Replicated(server, copies=1)

    results = await asyncio.gather(
        replicated.call("XADD", "a"), replicated.many([["XADD", "b"], ["XADD", "c"]]), return_exceptions=True
    )

    assert [type(result) for result in results] == [NotReplicatedError, NotReplicatedError]
    assert all(isinstance(result, TransportError) and result.is_unknown for result in results)


async def test_trouble_of_the_connection_reaches_everybody_and_the_next_write_is_tried() -> None:
    server = Server(DisconnectedError("gone"))
    server.answers.set()
    replicated = Replicated(server, copies=1)

    with pytest.raises(DisconnectedError):
        await replicated.call("XADD", "a")
    server.copies = 1

    assert await replicated.call("XADD", "b") == "b"


async def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    server = Server()
    replicated = Replicated(server, copies=1)
    gone, stays = (asyncio.create_task(replicated.call("XADD", name)) for name in ("a", "b"))
    await asyncio.sleep(0)

    gone.cancel()
    server.answers.set()

    assert await stays == "b"


async def test_closing_ends_what_waits() -> None:
    server = Server()
    replicated = Replicated(server, copies=1)
    sent = asyncio.create_task(replicated.call("XADD", "a"))
    await server.asked.wait()
    waits = asyncio.create_task(replicated.call("XADD", "b"))
    await asyncio.sleep(0)

    await replicated.close()

    results = await asyncio.gather(sent, waits, return_exceptions=True)
    assert [type(result) for result in results] == [DisconnectedError, DisconnectedError]
