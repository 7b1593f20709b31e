"""Redaction: no secret leaves, by whatever name or form it is one, and what is none stays readable."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamtask_contrib.config_sync.documents import MAX_BYTES, canonical
from streamtask_contrib.config_sync.redaction import HIDDEN, Sealing, redacted, secrets

from tests.contrib.config_sync.made import ANY, VALUES

SECRET = "Tr0ub4dor-and-3"
NAMES = (
    "password", "PASSWORD", "db_password", "dbPassword", "smtp-passwd", "passphrase", "secret", "client_secret",
    "token", "hf_token", "authToken", "api_key", "apiKey", "APIKEY", "x-api-key", "private_key", "signing.key",
    "AWS_SECRET_ACCESS_KEY", "credentials", "cookie", "authorization", "webhook_secret", "password1", "salt",
    "tokens", "api_keys",
)  # fmt: skip
OPEN = (
    "model", "key", "public_key", "routing_key", "partition_keys", "tokenizer", "token_ttl", "password_file",
    "auth_token_ref", "secret_name", "author", "passenger", "monkey", "keyboard", "token_url", "compass", "sidebar",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_known_by_its_name(name):
    for value in (SECRET, {"a": SECRET}, [SECRET], {SECRET: "alice"}, [f"{n}" for n in range(3)]):
        assert redacted({"a": {name: value}, "b": [{name: value}]}) == {"a": {name: HIDDEN}, "b": [{name: HIDDEN}]}


@pytest.mark.parametrize("name", OPEN)
def test_what_only_sounds_like_one_is_shown(name):
    assert redacted({name: "plain"}) == {name: "plain"}


@pytest.mark.parametrize(
    "values",
    [
        {"auth": True, "password": None, "token": "", "secrets": []},
        {"max_tokens": 448, "suppress_tokens": [-1, 50257], "max_new_tokens": 12},
        {"url": "https://example.org/a?page=2#top", "redis": "redis://localhost:6379/0"},
        {"text": "the key is under the mat", "pem": "-----BEGIN CERTIFICATE-----\nMIIB"},
    ],
)
def test_what_is_no_secret_is_shown(values):
    assert redacted(values) == values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"redis://user:{SECRET}@h:6379/0", "redis://user:***@h:6379/0"),
        (f"redis://:{SECRET}@h:6379/0", "redis://:***@h:6379/0"),
        (f"amqp://u:p@{SECRET}/x@h:1/v", "amqp://u:***@h:1/v"),
        (f"nats://{SECRET}@h:4222", "nats://***@h:4222"),
        (f"https://h/x?api_key={SECRET}&page=2", "https://h/x?api_key=***&page=2"),
        (f"https://h/x?X-Amz-Signature={SECRET}", "https://h/x?X-Amz-Signature=***"),
        (f"host=db user=x password={SECRET} port=1", "host=db user=x password=*** port=1"),
        (f"Server=x;Pwd={SECRET};Timeout=3", "Server=x;Pwd=***;Timeout=3"),
        (f'{{"user": "x", "password": "{SECRET} {SECRET}"}}', '{"user": "x", "password": ***}'),
        (f"run --token {SECRET} --fast", "run --token *** --fast"),
        (f"run --db-password={SECRET} --fast", "run --db-password=*** --fast"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"curl -H Bearer {SECRET}", "curl -H Bearer ***"),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----", HIDDEN),
        (f"-----BEGIN PRIVATE KEY-----\n{SECRET}", HIDDEN),
        ("AKIAIOSFODNN7EXAMPLE", HIDDEN),
        ("use ghp_abcdefghijklmnopqrstuvwxyz0123456789 here", "use *** here"),
        ("hf_abcdefghijklmnopqrstuvwxyz", HIDDEN),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz", HIDDEN),
        ("xoxb-123456789012-abcdef", HIDDEN),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", HIDDEN),
        ("$2b$12$abcdefghijklmnopqrstuv", HIDDEN),
        ("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$hash", HIDDEN),
    ],
)
def test_a_secret_is_known_by_its_form_and_the_rest_is_shown(text, shown):
    assert redacted({"a": text, "list": [text]}) == {"a": shown, "list": [shown]}
    assert SECRET not in json.dumps(redacted({"a": {"b": [text]}}))


def test_pairs_options_and_keys_hide_what_they_announce():
    assert redacted({"env": [{"name": "DB_PASSWORD", "value": SECRET}, {"name": "MODE", "value": "fast"}]}) == {
        "env": [{"name": "DB_PASSWORD", "value": HIDDEN}, {"name": "MODE", "value": "fast"}]
    }
    assert redacted({"command": ["run", "--token", SECRET, "--fast"]}) == {
        "command": ["run", "--token", HIDDEN, "--fast"]
    }
    users = {"sk-abcdefghijklmnopqrst": "alice"}
    assert redacted({"users": users}) == {"users": {HIDDEN: HIDDEN}}
    assert redacted(users) == {HIDDEN: HIDDEN}


def test_names_of_ones_own_are_hidden_where_they_are_set():
    values = {"billing": {"account": "x", "plan": {"name": "y"}}, "hooks": [{"webhook": "z"}], "model": "small"}
    assert redacted(values, ("billing.*", "*.WebHook")) == {
        "billing": {"account": HIDDEN, "plan": HIDDEN},
        "hooks": [{"webhook": HIDDEN}],
        "model": "small",
    }


@given(VALUES, st.sampled_from(NAMES), ANY)
def test_no_secret_is_left_wherever_it_stands(values: dict[str, Any], name: str, where: Any):
    hidden = {**values, "x": [where, {"deep": {name: SECRET, "url": f"redis://u:{SECRET}@h/0"}}]}
    assert SECRET not in json.dumps(redacted(hidden))
    assert SECRET in secrets(hidden).values()


@given(VALUES)
def test_what_is_redacted_stays_as_it_is(values: dict[str, Any]):
    once = redacted(values)
    assert canonical(redacted(once)) == canonical(once)


@given(VALUES)
def test_where_nothing_is_secret_nothing_changes(values: dict[str, Any]):
    if not secrets(values):
        assert canonical(redacted(values)) == canonical(values)


# ── digests ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_checksum_of_a_configuration_without_secrets_is_that_of_its_canonical_json():
    # printf %s ... | sha256sum
    assert Sealing(b"key").checksum({"b": "ü", "a": 1}) == (
        "1a59e522e02ce50ad2c27c11a6d30f8667489c199580627fe9e3e33e2b0e91d5"
    )


@given(VALUES, st.text(min_size=1), st.text(min_size=1))
def test_a_secret_that_differs_makes_another_checksum(values: dict[str, Any], one: str, other: str):
    sealing = Sealing(b"key")
    first, second = {**values, "password": one}, {**values, "password": other}
    assert (sealing.checksum(first) == sealing.checksum(second)) == (one == other)
    assert (sealing.digests(first)["password"] == sealing.digests(second)["password"]) == (one == other)


def test_without_the_key_nobody_can_try_secrets_out():
    values = {
        "model": "small",
        "pin": "1234",
        "url": f"redis://u:{SECRET}@h/0",
        "users": {"sk-abcdefghijklmnopqrst": 1},
    }
    here, elsewhere = Sealing(b"one"), Sealing(b"other")
    assert here.checksum(values) != elsewhere.checksum(values)
    assert here.digests(values).keys() == elsewhere.digests(values).keys() == {"pin", "url", 'users."***"'}
    assert not set(here.digests(values).values()) & set(elsewhere.digests(values).values())


@pytest.mark.parametrize(
    "text", ["://" * 40_000, "token" * 25_000, "a" * MAX_BYTES, "password " * 14_000, "eyJ" * 40_000]
)
def test_the_worst_text_takes_no_time(text):
    began = time.monotonic()
    redacted({"a": text[:MAX_BYTES]})
    assert time.monotonic() - began < 10
