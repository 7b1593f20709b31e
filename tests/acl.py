"""The Redis users of the documentation, made on a real server from the very lines of docs/how-to/securing.md."""

from __future__ import annotations

import re
from pathlib import Path

import redis

from tests.servers import RedisServer

_PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "securing.md"
_LINE = re.compile(r"^ACL SETUSER (\w+) (.+)$", re.MULTILINE)


def rights() -> dict[str, list[str]]:
    """The words of each user's line in the documentation."""
    return {name: words.split() for name, words in _LINE.findall(_PAGE.read_text())}


class Users:
    """The users of the documentation on a server, and their URLs."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.admin = server.client()
        for name, words in rights().items():
            self.admin.execute_command("ACL", "SETUSER", name, *words)

    def url(self, name: str) -> str:
        """What a transport of this user connects to."""
        return f"redis://{name}:{name.upper()}_PASSWORD@127.0.0.1:{self.server.port}/0"

    def client(self, name: str) -> redis.Redis:
        """A client of this user."""
        return self.server.client(username=name, password=f"{name.upper()}_PASSWORD")

    def take(self, name: str, *words: str) -> None:
        """Take rights from a user, or give them: "-xack", "+xack"."""
        self.admin.execute_command("ACL", "SETUSER", name, *words)
