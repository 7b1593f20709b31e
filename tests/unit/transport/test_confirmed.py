"""Publishing that is confirmed: one WAIT or WAITAOF for what is written together, and no yes without theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamtask.errors import TransportError
from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.confirmed import Confirmation, Confirmed, UnconfirmedError
from streamtask.transport.redis.disk import OnDisk
from streamtask.transport.redis.line import Argument, DisconnectedError, ServerError
from streamtask.transport.redis.replicas import Fixed, OnReplicas

_WAITS = ("WAIT", "WAITAOF")
#: Who may be asked, and how a yes sounds.
CONFIRMATIONS: dict[str, tuple[Confirmation, object]] = {
    "replicas": (OnReplicas(Fixed(1)), 1),
    "disk": (OnDisk(), [1, 0]),
}


class Server(Caller):
    """Answers a command with its second word, and what waits with `confirmed`, once `answers` is set."""

    def __init__(self, confirmed: object = 1) -> None:
        self.confirmed = confirmed
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
        if isinstance(self.confirmed, TransportError) and not isinstance(self.confirmed, ServerError):
            raise self.confirmed
        return [self.confirmed if command[0] in _WAITS else command[1] for command in commands]

    async def close(self) -> None:
        self.confirmed = DisconnectedError("the connection was closed")
        self.answers.set()


@pytest.mark.parametrize("who", CONFIRMATIONS)
async def test_what_is_written_while_one_wait_is_under_way_shares_the_next(who: str) -> None:
    confirmation, yes = CONFIRMATIONS[who]
    server = Server(yes)
    confirmed = Confirmed(server, confirmation)

    calls = [asyncio.create_task(confirmed.call("XADD", f"{n}")) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls += [asyncio.create_task(confirmed.call("XADD", f"{n}")) for n in range(20, 40)]
    await asyncio.sleep(0)
    server.answers.set()

    assert await asyncio.gather(*calls) == [f"{n}" for n in range(40)]
    waits = [[command[0] in _WAITS for command in pipeline] for pipeline in server.pipelines]
    assert waits == [[*[False] * 20, True]] * 2
    written = [command[1] for pipeline in server.pipelines for command in pipeline[:-1]]
    assert written == [f"{n}" for n in range(40)]


@pytest.mark.parametrize(
    ("who", "answer", "said"),
    [
        ("replicas", 0, "0 of 1 replicas"),
        ("replicas", ServerError("ERR unknown command 'WAIT'"), "WAIT was refused"),
        ("disk", [0, 0], "the disk of the server did not confirm"),
        ("disk", [0, 1], "the disk of the server did not confirm"),
        ("disk", ServerError("ERR WAITAOF cannot be used"), "WAITAOF was refused"),
    ],
)
async def test_without_a_yes_it_is_unknown_to_everybody_in_the_pipeline(who: str, answer: object, said: str) -> None:
    server = Server(answer)
    server.answers.set()
    confirmed = Confirmed(server, CONFIRMATIONS[who][0])

    results = await asyncio.gather(
        confirmed.call("XADD", "a"), confirmed.many([["XADD", "b"], ["XADD", "c"]]), return_exceptions=True
    )

    assert [type(result) for result in results] == [UnconfirmedError, UnconfirmedError]
    assert all(isinstance(result, TransportError) and result.is_unknown for result in results)
    assert all(said in str(result) for result in results)


async def test_trouble_of_the_connection_reaches_everybody_and_the_next_write_is_tried() -> None:
    server = Server(DisconnectedError("gone"))
    server.answers.set()
    confirmed = Confirmed(server, OnReplicas(Fixed(1)))

    with pytest.raises(DisconnectedError):
        await confirmed.call("XADD", "a")
    server.confirmed = 1

    assert await confirmed.call("XADD", "b") == "b"


async def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    server = Server()
    confirmed = Confirmed(server, OnReplicas(Fixed(1)))
    gone, stays = (asyncio.create_task(confirmed.call("XADD", name)) for name in ("a", "b"))
    await asyncio.sleep(0)

    gone.cancel()
    server.answers.set()

    assert await stays == "b"


async def test_closing_ends_what_waits() -> None:
    server = Server()
    confirmed = Confirmed(server, OnReplicas(Fixed(1)))
    sent = asyncio.create_task(confirmed.call("XADD", "a"))
    await server.asked.wait()
    waits = asyncio.create_task(confirmed.call("XADD", "b"))
    await asyncio.sleep(0)

    await confirmed.close()

    results = await asyncio.gather(sent, waits, return_exceptions=True)
    assert [type(result) for result in results] == [DisconnectedError, DisconnectedError]
