"""Which recipe is taken for which address, and what a recipe makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from pydantic import SecretStr
from streamtask_contrib.bot.drivers.port import Invitation, JoinError
from streamtask_contrib.bot.drivers.recipes import GENERIC, JITSI, RECIPES, recipe_for, recipe_named


def invited(url: str, token: str | None = None) -> Invitation:
    secret = SecretStr(token) if token else None
    return Invitation(meeting_url=url, display_name='Ada "the bot" & co', token=secret, folder=Path())


@pytest.mark.parametrize(
    ("address", "recipe"),
    [
        ("https://meet.jit.si/StandUp", JITSI),
        ("https://jitsi.example.org/a", JITSI),
        ("https://meet.jitsi.example.org/a", JITSI),
        ("https://8x8.vc/tenant/room", JITSI),
        ("https://meet.example.org/a", None),
        ("https://meet.example.org/jitsi.org", None),
    ],
)
def test_a_host_tells_the_recipe_where_it_is_known(address, recipe):
    assert recipe_for(address, RECIPES) is recipe


def test_a_recipe_that_there_is_not_is_said_with_those_that_there_are():
    assert recipe_named("generic", RECIPES) is GENERIC
    with pytest.raises(JoinError, match='no recipe "zoom", but jitsi, generic') as missing:
        recipe_named("zoom", RECIPES)
    assert missing.value.reason == "no_such_recipe"


def test_jitsi_is_asked_for_a_silent_bot_with_its_name_and_for_what_the_address_asks():
    address = urlsplit(JITSI.address_of(invited("https://meet.jit.si/Room?a=b#config.channelLastN=3", "a.b.c")))
    assert (address.scheme, address.netloc, address.path) == ("https", "meet.jit.si", "/Room")
    assert parse_qs(address.query) == {"a": ["b"], "jwt": ["a.b.c"]}
    pairs = [pair.split("=", 1) for pair in address.fragment.split("&")]
    asked = {name: json.loads(unquote(value)) for name, value in pairs}
    assert asked["userInfo.displayName"] == 'Ada "the bot" & co'
    assert asked["config.startWithAudioMuted"] is True
    assert asked["config.prejoinConfig.enabled"] is False
    assert asked["config.channelLastN"] == 3


def test_a_token_without_a_use_is_not_passed_over_in_silence():
    assert GENERIC.address_of(invited("https://example.org/a")) == "https://example.org/a"
    with pytest.raises(JoinError) as unused:
        GENERIC.address_of(invited("https://example.org/a", "secret"))
    assert unused.value.reason == "token_unused"
    assert "secret" not in str(unused.value)
