"""How many replicas have to have a write where the answer is: all that a failover may promote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamtask.transport.redis.client import Caller
from streamtask.transport.redis.line import Argument, ServerError
from streamtask.transport.redis.replicas import AllReplicas


def told(online: int, *, syncing: int = 0, history: str = "a" * 40) -> bytes:
    states = ["online"] * online + ["wait_bgsave"] * syncing
    replicas = "".join(f"slave{n}:ip=127.0.0.1,port=1,state={state},offset=0\r\n" for n, state in enumerate(states))
    return f"# Replication\r\nrole:master\r\n{replicas}master_replid:{history}\r\n".encode()


class Server(Caller):
    """Answers INFO."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    @property
    def generation(self) -> int:
        return 1

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = 5.0) -> list[Any]:
        assert [list(command) for command in commands] == [["INFO", "replication"]]
        self.asked += 1
        return [self.answer]

    async def close(self) -> None:
        pass


async def test_all_that_are_in_step_are_waited_for_and_one_at_least() -> None:
    assert await AllReplicas(Server(told(2))).number() == 2
    assert await AllReplicas(Server(told(1, syncing=1))).number() == 1
    assert await AllReplicas(Server(told(0))).number() == 1


async def test_who_may_not_ask_waits_for_one() -> None:
    assert (
        await AllReplicas(Server(ServerError("NOPERM this user has no permissions to run the 'info' command"))).number()
        == 1
    )


async def test_the_server_is_asked_once_in_a_while() -> None:
    server = Server(told(2))
    replicas = AllReplicas(server)
    for _ in range(100):
        await replicas.number()
    assert server.asked == 1


async def test_a_replica_that_is_gone_counts_until_a_primary_that_it_replaced_would_have_been_told() -> None:
    replicas = AllReplicas(Server(told(2)))
    assert await replicas.number() == 2
    replicas.see(told(1), 100.0)
    replicas.see(told(1), 129.0)
    assert await replicas.number() == 2
    replicas.see(told(1), 130.0)
    assert await replicas.number() == 1


async def test_a_replica_that_comes_back_in_time_was_never_gone() -> None:
    replicas = AllReplicas(Server(told(2)))
    await replicas.number()
    replicas.see(told(1), 100.0)
    replicas.see(told(2), 120.0)
    replicas.see(told(1), 140.0)
    replicas.see(told(1), 160.0)
    assert await replicas.number() == 2


async def test_a_new_primary_has_replicas_of_its_own() -> None:
    replicas = AllReplicas(Server(told(2)))
    await replicas.number()
    replicas.see(told(0, history="b" * 40), 100.0)
    assert await replicas.number() == 1
    replicas.see(told(1, history="b" * 40), 101.0)
    assert await replicas.number() == 1
