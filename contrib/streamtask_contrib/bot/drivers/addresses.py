"""Where a bot's browser may go. Pure.

An address comes with an event, from whoever may ask for a bot: it must not make the browser read this machine's files,
nor, where the operator says so, go to other hosts than those of meetings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Addresses:
    """`hosts`: patterns such as "meet.example.org" or "*.example.org"; none: any host."""

    hosts: Sequence[str] = ()

    def refusal(self, address: str) -> str:
        """Why a browser may not go there, without the address itself, which may hold secrets. Empty: it may."""
        try:
            parts = urlsplit(address)
            host = (parts.hostname or "").rstrip(".").lower()
        except ValueError:
            return "the address of the meeting is none"
        if parts.scheme not in {"http", "https"}:
            return "the address of a meeting begins with https:// or http://"
        if not host:
            return "the address of the meeting has no host"
        if self.hosts and not any(fnmatch(host, pattern.lower()) for pattern in self.hosts):
            return f"the host {host} is not among those of STREAMTASK_BOT_MEETING_HOSTS"
        return ""
