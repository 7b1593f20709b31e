"""A connection's first words: who we are, which database, and what becomes of it where the server will not have us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from streamtask.transport.redis.addresses import target_of
from streamtask.transport.redis.connecting import connect
from streamtask.transport.redis.line import DisconnectedError, Line, ServerError, UnreachableError
from tests.servers import RedisServer, ServerBinary, free_port

PASSWORD = "c4nary"


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Line]:
    line = await connect(target_of(url))
    try:
        yield line
    finally:
        line.drop(DisconnectedError("the test is over"))
        await asyncio.sleep(0)


async def ask(line: Line, *words: str) -> object:
    [reply] = await line.ask([words], 5.0)
    return reply


async def test_a_connection_has_the_name_and_the_database_that_its_url_says(redis_server: RedisServer) -> None:
    async with connected(f"{redis_server.url}?client_name=me&db=3") as line:
        assert await ask(line, "CLIENT", "GETNAME") == b"me"
        assert await ask(line, "SET", "here", "1") == b"OK"
        # Older servers know no names of libraries, and say so; nobody minds.
        assert not line.is_over
        assert not line.may_not

    assert redis_server.client(db=3).get("here") == b"1"
    assert redis_server.client(db=0).get("here") is None


async def test_a_user_with_a_password_is_who_the_url_says(redis_server: RedisServer) -> None:
    admin = redis_server.client()
    admin.execute_command("ACL", "SETUSER", "me", "on", f">{PASSWORD}", "~*", "+@all")
    try:
        async with connected(redis_server.url.replace("://", f"://me:{PASSWORD}@")) as line:
            assert await ask(line, "ACL", "WHOAMI") == b"me"
    finally:
        admin.execute_command("ACL", "DELUSER", "me")


async def test_a_wrong_password_is_said_to_be_one_and_not_said(redis_server: RedisServer) -> None:
    with pytest.raises(ServerError, match="invalid username-password pair") as caught:
        await connect(target_of(redis_server.url.replace("://", f"://nobody:{PASSWORD}@")))

    assert caught.value.code == "NOAUTH"
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


async def test_a_database_that_there_is_not_is_told_of(redis_server: RedisServer) -> None:
    with pytest.raises(ServerError, match="out of range"):
        await connect(target_of(f"{redis_server.url}?db=99"))


async def test_a_server_with_too_many_clients_says_so(server_binary: ServerBinary) -> None:
    server = RedisServer(server_binary)
    try:
        server.start("--maxclients", "1")
        # The one is the client that has waited for it to be ready. It hangs up on others, mostly before it is heard.
        with pytest.raises((ServerError, UnreachableError), match=r"max number of clients reached|maxclients"):
            await connect(target_of(server.url))
    finally:
        server.close()


async def test_where_nobody_listens_nothing_was_sent_and_the_place_is_named() -> None:
    port = free_port()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}") as caught:
        await connect(target_of(f"redis://:{PASSWORD}@127.0.0.1:{port}"))

    assert not caught.value.is_unknown
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"


async def test_who_takes_a_connection_and_says_nothing_is_given_up_in_the_time_of_the_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}?socket_connect_timeout=0.2"
        with pytest.raises(UnreachableError, match="in time"):
            await asyncio.wait_for(connect(target_of(url)), 5)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_connection_that_nothing_moves_on_is_looked_after_by_the_system(
    server_binary: ServerBinary, *, kept: bool
) -> None:
    server = RedisServer(server_binary, tcp=True)
    try:
        server.start()
        async with connected(f"{server.url}?socket_keepalive={'yes' if kept else 'no'}") as line:
            opened = line._transport.get_extra_info("socket")
            assert bool(opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == kept
    finally:
        server.close()
