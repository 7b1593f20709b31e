"""A URI is taken or refused by what it says alone, and what is taken stays below its prefix."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtask.blobs.uris import SHARED, Place, clean_name, place_of
from streamtask.errors import BlobRefusedError

FOLDER, BUCKET = "file:///srv/audio/", "s3://bucket/prefix/"
PREFIXES = (SHARED, FOLDER, BUCKET)

ALLOWED = {
    "redis:///a": Place(SHARED, "a"),
    "redis:///sessions/17/0003.wav": Place(SHARED, "sessions/17/0003.wav"),
    "redis:///a..b/c-d_e.f": Place(SHARED, "a..b/c-d_e.f"),
    "file:///srv/audio/x.wav": Place(FOLDER, "x.wav"),
    "file:///srv/audio/a b/Ünder standing (1).wav": Place(FOLDER, "a b/Ünder standing (1).wav"),
    "file:///srv/audio/...": Place(FOLDER, "..."),
    "s3://bucket/prefix/x": Place(BUCKET, "x"),
    "s3://bucket/prefix/a/b@c=d+e&f": Place(BUCKET, "a/b@c=d+e&f"),
}

#: The metadata of a cloud in every spelling of its address, and what else only we can reach.
_HOSTS = ["169.254.169.254", "0xA9FEA9FE", "2852039166", "[::ffff:169.254.169.254]", "localhost.", "[fd00::1]"]
_NO_STORE = [
    *(f"{scheme}://{host}/latest/meta-data/"
      for scheme in ("http", "https", "gopher", "ftp", "dict", "ldap", "ws", "tftp") for host in _HOSTS),
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/info", "jar:file:///srv/audio/x!/y",
    # Not ours, or not quite.
    "", "x", "/etc/passwd", "redis", "redis:", "redis:/a", "redis://a", "redis:///", "file:///srv/audio", "file:///srv/audio/",
    "REDIS:///a", "File:///srv/audio/x", " redis:///a", "\tredis:///a", "view-source:redis:///a", "redis+cluster:///a",
    "rediss:///a", "file:/srv/audio/x", "file:srv/audio/x", "file://localhost/srv/audio/x", "file://host/srv/audio/x",
    # Another's server, or a password.
    "redis://127.0.0.1:6379/a", "redis://other/a", "redis://user:secret@/a", "redis://user:secret@host/a",
    "file://user:secret@/srv/audio/x", "s3://key:secret@bucket/prefix/x", "s3://bucket:443/prefix/x",
    # Beside the prefix.
    "file:///etc/passwd", "file:////srv/audio/x", "file:///srv/audio-evil/x", "file:///srv/Audio/x", "file:///srv",
    "file:///srv/audio2", "s3://bucket-evil/prefix/x", "s3://bucket.evil/prefix/x", "s3://bucket/prefix-evil/x",
    "s3://bucket/prefixx", "s3://bucket/x", "s3://bucket", "s3://bucket/", "s3://bucket/prefix", "s3://bucket//prefix/x",
    "s3a://bucket/prefix/x", "S3://bucket/prefix/x", "s3://BUCKET/prefix/x", "simplecache::s3://bucket/prefix/x",
    "s3://evil/s3://bucket/prefix/x", "s3:///bucket/prefix/x", "s3:/bucket/prefix/x",
]  # fmt: skip
_STEPS_OUT = [
    "..", ".", "../x", "./x", "a/../x", "a/./x", "a/..", "a/../../x", "a/../../../../etc/passwd", "../audio/x",
    "../prefix/x", "//x", "/x", "a//x", "a/", "/", "/../x",
    "%2e%2e/x", "%2E%2E/x", "..%2fx", "%2e%2e%2fx", "%252e%252e/x", "a%00b", "x%", "%", "%c0%ae%c0%ae/x",
    "..\\x", "a\\..\\x", "\\\\host\\share", "x\x00", "x\x00.wav", "\x00", "x\n", "x\r\ny", "x\x1b[2J", "x\x7f",
    "x\u202ecod.exe", "x\ud800", "x?versionId=1",
    "?x", "x?", "x#y", "#", "x*", "*", "x**y", "a::b", "x::http://evil/", "::",
]  # fmt: skip
_NO_NAME = ["-a", ".a", "a/.b", "a b", "ä", "a:b", "a{b}", "a@b", "a+b", "C:/x", "~root/x", "a" * 201, "a/" * 100 + "a"]

REFUSED = [
    *_NO_STORE,
    *(prefix + steps for prefix in PREFIXES for steps in _STEPS_OUT),
    *(SHARED + name for name in _NO_NAME),
    *(prefix + "a" * 3000 for prefix in PREFIXES),
]


@pytest.mark.parametrize("uri", ALLOWED)
def test_what_is_below_an_allowed_prefix_is_taken(uri: str) -> None:
    assert place_of(uri, PREFIXES) == ALLOWED[uri]


@pytest.mark.parametrize("uri", REFUSED, ids=lambda uri: ascii(uri)[:60])
def test_all_else_is_refused_and_the_error_says_what_is_allowed_and_no_secret(uri: str) -> None:
    with pytest.raises(BlobRefusedError) as caught:
        place_of(uri, PREFIXES)
    said = str(caught.value)
    assert "nothing was read" in said
    assert all(f"{prefix}..." in said for prefix in PREFIXES)
    assert "secret" not in said
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 400


def test_so_many_are_tried() -> None:
    print(f"\nMEASURED URIs: refused = {len(REFUSED)}, taken = {len(ALLOWED)}")  # noqa: T201 - what was tried
    assert len(REFUSED) > 200


def test_what_an_app_does_not_allow_is_refused_there() -> None:
    for uri in ALLOWED:
        if not uri.startswith(SHARED):
            with pytest.raises(BlobRefusedError, match=r"in no store.*Allowed: redis:///\.\.\.$"):
                place_of(uri, [SHARED])


@given(
    st.text() | st.lists(st.sampled_from(["..", ".", "/", "a", "%2e", "\\", "\0", "?", "redis:///", "é"])).map("".join)
)
def test_whatever_follows_a_prefix_it_is_refused_or_stays_below(text: str) -> None:
    for prefix in PREFIXES:
        try:
            place = place_of(prefix + text, PREFIXES)
        except BlobRefusedError:
            continue
        assert place == Place(prefix, text)
        assert not {"", ".", ".."} & {*text.split("/")}
        assert not re.search(r"[\x00-\x1f%?#\\*]", text)


@pytest.mark.parametrize("name", ["a", "a.wav", "sessions/17/3.wav", "A_b-c.d", "a" * 200, "17", "_"])
def test_a_plain_name_is_kept(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["Mein Vortrag.wav", "../../etc/passwd", "/etc/passwd", ".hidden", "-rf", "a//b", "a/./b", "a/../b", "a/", "x\x00y",
     "Résumé.wav", "\ud800", "a" * 201, "con\\aux", "{a}", "a?b", "%2e%2e", " ", "..", "."],
)  # fmt: skip
def test_any_other_name_becomes_a_plain_one_of_its_own(name: str) -> None:
    clean = clean_name(name)
    assert clean != name
    assert clean_name(clean) == clean
    assert place_of(SHARED + clean, PREFIXES) == Place(SHARED, clean)
    assert "/" not in clean
    assert clean != clean_name(name + "x")


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert (clean_name(one) == clean_name(other)) == (one == other)


def test_a_name_has_to_be_given() -> None:
    with pytest.raises(ValueError, match="has a name"):
        clean_name("")
