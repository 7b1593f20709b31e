"""A broker URL becomes the connection that it says, or an error that says what is wrong and quotes no password."""

from __future__ import annotations

import ssl

import pytest

from streamtask.errors import ConfigurationError
from streamtask.transport.redis.addresses import cluster_of, dial_of, target_of, watched_of
from streamtask.transport.redis.connecting import Target, Tls


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", Target(host="h")),
        ("redis://", Target(host="localhost", port=6379)),
        ("redis://u:p%40%2F@h:1/2", Target(host="h", username="u", password="p@/", port=1, database=2)),
        ("redis://:p@h", Target(host="h", password="p")),
        ("redis://[::1]:7/3", Target(host="::1", port=7, database=3)),
        ("redis://h/3?db=4", Target(host="h", database=4)),
        (
            "redis://h?socket_connect_timeout=0.5&socket_keepalive=no&client_name=a%40b",
            Target(host="h", timeout=0.5, keepalive=False, client_name="a@b"),
        ),
        ("redis://h?max_connections=9&health_check_interval=30&socket_timeout=1", Target(host="h")),
        ("valkey://h", Target(host="h")),
        ("valkeys://h", Target(host="h", tls=Tls())),
        ("rediss://h?ssl_check_hostname=false", Target(host="h", tls=Tls(check_hostname=False))),
        (
            "rediss://h?ssl_min_version=772&ssl_cert_reqs=none&ssl_exclude_verify_flags=[VERIFY_X509_STRICT]",
            Target(
                host="h",
                tls=Tls(
                    min_version=ssl.TLSVersion.TLSv1_3,
                    cert_reqs=ssl.CERT_NONE,
                    exclude_verify_flags=(ssl.VerifyFlags.VERIFY_X509_STRICT,),
                ),
            ),
        ),
        ("unix:///run/redis.sock?db=4", Target(path="/run/redis.sock", database=4)),
        ("unix://u:p@/run/a%20b", Target(path="/run/a b", username="u", password="p")),
    ],
)
def test_a_url_becomes_the_connection_that_it_says(url: str, target: Target) -> None:
    assert target_of(url) == target


def test_each_sentinel_is_asked_at_its_own_address_with_its_own_password() -> None:
    watched = watched_of(
        "rediss+sentinel://u:p%40@a:1,[::2]:3,c/main%2F/5?sentinel_password=s%40&sentinel_username=w&ssl_cert_reqs=none"
    )

    assert watched.sentinels == [("a", 1), ("::2", 3), ("c", 26379)]
    assert watched.service == "main/"
    tls = Tls(cert_reqs=ssl.CERT_NONE)
    assert watched.sentinel.at(("a", 1)) == Target(
        host="a", port=1, username="w", password="s@", timeout=watched.sentinel.timeout, tls=tls
    )
    assert watched.primary.at(("b", 2)) == Target(host="b", port=2, username="u", password="p@", database=5, tls=tls)


def test_the_nodes_of_a_cluster_are_greeted_alike() -> None:
    nodes, target = cluster_of("rediss+cluster://me:p%40ss@a:1,[::1]:2,c/0?ssl_cert_reqs=none")

    assert nodes == [("a", 1), ("::1", 2), ("c", 6379)]
    assert target.at(("d", 9)) == Target(
        host="d", port=9, username="me", password="p@ss", tls=Tls(cert_reqs=ssl.CERT_NONE)
    )


def test_what_is_known_of_a_server_is_shown_without_its_passwords() -> None:
    shown = repr(target_of("rediss://user:canary@h:1/2?ssl_password=canary&client_name=canary"))

    assert shown == "Target(h:1)"
    assert "canary" not in repr(Tls(password="canary"))
    assert "canary" not in repr(dial_of("redis+sentinel://:canary@h/main?sentinel_password=canary"))
    assert "canary" not in repr(dial_of("redis://:canary@h"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:sec/ret@h:1/0", "%2F"),
        ("redis://:sec#ret@h/0", "%23"),
        ("redis://:sec?ret@h/0", "%3F"),
        ("redis://:[secret@h/0", "hexadecimal"),
        ("redis://:secret\u2100@h/0", "hexadecimal"),
        ("redis://:secret@h/orders", "no number"),
        ("redis://:secret@h:99999", "hexadecimal"),
        ("redis://:secret@h?password=secret&socket_connect_timeout=secret", "'socket_connect_timeout'"),
        ("redis://:secret@h?db=secret", "'db'"),
        ("redis://:secret@h?nonsense=secret", "'nonsense'"),
        ("redis://:secret@h?ssl_ca_certs=/etc/ca.pem", "'ssl_ca_certs'"),
        ("redis://:secret@h?sentinel_password=secret", "'sentinel_password'"),
        ("rediss://:secret@h?ssl_ca_certs=/nowhere", "No such file"),
        ("rediss://:secret@h?ssl_cert_reqs=secret", "'ssl_cert_reqs'"),
        ("rediss://:secret@h?ssl_min_version=secret", "'ssl_min_version'"),
        ("redis+sentinel://:secret@a", "service"),
        ("redis+sentinel://:secret@a/main/orders", "no number"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_reason_and_without_the_secret(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        dial_of(url)

    error = caught.value
    assert "sec" not in str(error)
    # What a tracker would show beside it.
    assert error.__cause__ is error.__context__ is None
