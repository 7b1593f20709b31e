"""Secrets in URLs do not reach logs, wherever the URL stands and however broken it is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import sanitize_url

from streamtask.redact import MaskedUrl, mask_text, mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:secret@h:6379/0", "redis://:**@h:6379/0"),
        ("rediss://user:secret@h/0", "rediss://user:**@h/0"),
        ("redis+sentinel://u:secret@h1:1,h2:2/service", "redis+sentinel://u:**@h1:1,h2:2/service"),
        ("rediss+cluster://u:secret@h1:1,h2:2/0", "rediss+cluster://u:**@h1:1,h2:2/0"),
        ("kombu+amqp://u:secret@[::1]:5672//", "kombu+amqp://u:**@[::1]:5672//"),
        ("nats://secret@h:4222", "nats://**@h:4222"),
        ("redis://u:sec/ret@h:1/0", "redis://u:**@h:1/0"),
        ("redis://u:sec@ret#@h:1/0", "redis://u:**@h:1/0"),
        ("redis://:se?cret@h/0", "redis://:**@h/0"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=**&db=1"),
        ("redis://h/0?Access_Token=secret;x=1", "redis://h/0?Access_Token=**;x=1"),
        ("https://h/cb#client_secret=secret", "https://h/cb#client_secret=**"),
        ("redis://u:secret@h?password=secret", "redis://u:**@h?password=**"),
        ("redis://h/0?password=sec@ret", "redis://h/0?password=**"),
    ],
)
def test_passwords_tokens_and_secrets_are_masked(url, masked):
    assert mask_url(url) == masked
    assert mask_text(f"cannot reach {url} at all") == f"cannot reach {masked} at all"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://[::1]:6379/0?client_name=a@b",
        "redis+cluster://h1:1,h2:2/0?client_name=a@b",
        "rediss://h/0?ssl_keyfile=/etc/tls/key.pem&health_check_interval=3",
        "unix:///run/redis.sock?db=1",
        "memory://",
        "embedded://",
        "no url",
        "",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(url):
    assert mask_url(url) == url


@pytest.mark.parametrize("url", ["redis://:secret@h:6379/0", "amqp://u:secret@h:5672/v", "redis://h:1/0"])
def test_plain_urls_look_as_kombu_shows_them(url):
    assert mask_url(url) == sanitize_url(url)


def test_every_url_in_a_text_is_masked_and_the_rest_is_kept():
    text = "Error 111 connecting to redis://:secret@h:1. 1redis://:secret@i, then (amqp://a:secret@j)\n redis://k"
    assert (
        mask_text(text) == "Error 111 connecting to redis://:**@h:1. 1redis://:**@i, then (amqp://a:**@j)\n redis://k"
    )


@given(
    user=st.from_regex(r"[a-z]{0,5}", fullmatch=True),
    password=st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).map(lambda text: f"<{text}>"),
)
def test_no_password_survives_whatever_its_characters(user, password):
    url = f"redis://{user}:{password}@host:6379/0"
    assert password not in mask_url(url)
    assert password not in mask_text(f"x {url} y")
    assert mask_url(url).endswith("@host:6379/0")


@given(st.text())
def test_any_text_can_be_masked_and_masking_twice_changes_nothing(text):
    assert mask_text(mask_text(text)) == mask_text(text)
    assert mask_url(mask_url(text)) == mask_url(text)


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "://",
        "://a@",
        "?",
        "://?",
        "://x ",
        "@",
        ":",
        "a.+-",
        "?password=",
        "?a",
        "a=",
        "&",
        "h:1,",
        "[::1]",
        "[",
        "1",
    ],
)
@pytest.mark.parametrize("lead", ["", "redis://", "redis://:", "redis://h/?"])
@pytest.mark.parametrize("tail", ["", "?@", "!"])
def test_adversarial_text_costs_no_more_than_its_length(lead, part, tail):
    text = lead + part * (100_000 // len(part)) + tail
    start = time.process_time()
    mask_text(text)
    mask_url(text)
    # Measured at 1 to 30 ms; a quadratic pattern takes tens of seconds here.
    assert time.process_time() - start < 2


def test_a_masked_url_is_whole_as_text_and_masked_where_python_shows_it():
    url = MaskedUrl("redis://:secret@h:6379/0")
    assert url == f"{url}" == str(url) == "redis://:secret@h:6379/0"
    assert repr(url) == repr({"url": url})[len("{'url': ") : -1] == "'redis://:**@h:6379/0'"
