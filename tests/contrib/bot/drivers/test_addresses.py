"""Where a bot's browser may go."""

from __future__ import annotations

import pytest
from streamtask_contrib.bot.drivers.addresses import Addresses


@pytest.mark.parametrize("address", ["https://meet.example.org/room", "http://127.0.0.1:8000/", "https://[::1]/x#y"])
def test_any_host_of_the_web_is_good_where_no_hosts_are_set(address):
    assert Addresses().refusal(address) == ""


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "chrome://settings", "data:text/html,x", "ftp://a/", "", "room"]
)
def test_only_the_web_is_good(address):
    assert "https://" in Addresses().refusal(address)


@pytest.mark.parametrize("address", ["http://", "https:///room", "http://["])
def test_an_address_needs_a_host(address):
    assert Addresses().refusal(address)


@pytest.mark.parametrize(
    ("host", "is_good"),
    [
        ("meet.example.org", True),
        ("MEET.example.org.", True),
        ("eu.jitsi.example.org", True),
        ("jitsi.example.org", False),
        ("meet.example.org.evil.net", False),
        ("meet.example.org@evil.net", False),
        ("evil.net#meet.example.org", False),
        ("evil.net?.jitsi.example.org", False),
        ("evil.net/meet.example.org", False),
    ],
)
def test_only_hosts_of_meetings_are_good_where_they_are_set(host, is_good):
    addresses = Addresses(("meet.example.org", "*.jitsi.example.org"))
    refusal = addresses.refusal(f"https://{host}/room?secret=1")
    assert (refusal == "") is is_good
    assert "secret" not in refusal
