"""A broker URL becomes the connection that it says, or an error that says what is wrong and quotes no password."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from streamtask.errors import ConfigurationError
from streamtask.transport.redis.addresses import connection_factory


@pytest.mark.parametrize(
    ("url", "kind", "attributes"),
    [
        ("redis://h", Connection, {"host": "h", "port": 6379, "db": 0, "password": None}),
        ("redis://u:p%40%2F@h:1/2", Connection, {"username": "u", "password": "p@/", "port": 1, "db": 2}),
        ("redis://[::1]:7/3", Connection, {"host": "::1", "port": 7, "db": 3}),
        ("redis://h?socket_connect_timeout=0.5", Connection, {"socket_connect_timeout": 0.5}),
        ("valkey://h", Connection, {"host": "h"}),
        ("rediss://h?ssl_check_hostname=false", SSLConnection, {"check_hostname": False}),
        ("valkeys://h", SSLConnection, {"check_hostname": True}),
        ("unix:///run/redis.sock?db=4", UnixDomainSocketConnection, {"path": "/run/redis.sock", "db": 4}),
        ("redis+sentinel://u:p%40@a:1,b/main/5", Connection, {"username": "u", "password": "p@", "db": 5}),
        ("redis+sentinel://[::1]:9/main?socket_connect_timeout=2", Connection, {"socket_connect_timeout": 2.0}),
        ("rediss+sentinel://a/main?ssl_check_hostname=false", SSLConnection, {"check_hostname": False}),
    ],
)
def test_a_url_becomes_the_connection_that_it_says(url: str, kind: type, attributes: dict[str, object]) -> None:
    made = connection_factory(url)()

    assert isinstance(made, kind)
    assert isinstance(made, SSLConnection) == url.startswith(("rediss", "valkeys"))
    assert {name: getattr(made, name) for name in attributes} == attributes


def test_each_sentinel_is_asked_at_its_own_address_with_its_own_password() -> None:
    made = connection_factory("rediss+sentinel://u:p@a:1,[::2]:3,c/main?sentinel_password=s&ssl_check_hostname=false")()

    assert made._sentinels == [("a", 1), ("::2", 3), ("c", 26379)]
    asked = made._ask("a", 1)
    assert isinstance(asked, SSLConnection)
    assert (asked.host, asked.port, asked.username, asked.password) == ("a", 1, None, "s")
    assert not asked.check_hostname


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:sec/ret@h:1/0", "%2F"),
        ("redis://:sec#ret@h/0", "%23"),
        ("redis://:sec?ret@h/0", "hexadecimal"),
        ("redis://:[secret@h/0", "hexadecimal"),
        ("redis://:secret\u2100@h/0", "hexadecimal"),
        ("redis://:secret@h/orders", "no number"),
        ("redis://:secret@h:99999", "hexadecimal"),
        ("redis://:secret@h?password=secret&socket_timeout=secret", "hexadecimal"),
        ("redis://:secret@h?nonsense=secret", "'nonsense'"),
        ("redis://:secret@h?ssl_ca_certs=/etc/ca.pem", "'ssl_ca_certs'"),
        ("rediss://:secret@h?ssl_ca_certs=/nowhere", "No such file"),
        ("redis+sentinel://:secret@a", "service"),
        ("redis+sentinel://:secret@a/main/orders", "no number"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_reason_and_without_the_secret(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        connection_factory(url)

    error = caught.value
    assert "sec" not in str(error)
    # What a tracker would show beside it.
    assert error.__cause__ is error.__context__ is None
