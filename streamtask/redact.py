"""Broker URLs without their secrets, for logs, error messages and the command line.

The form is kombu's (`redis://user:**@host`). The work is not: `kombu.utils.url` refuses lists of hosts, unescaped
passwords and the brackets of IPv6, and drops the query, while this runs on whatever text an error message holds and
must neither fail on it nor slow down. In doubt it hides too much. Every pattern here looks at a character once.
"""

from __future__ import annotations

import re

_MASK = "**"
_SEPARATOR = "://"
#: From the `://` to the next white space: a password may hold any other character, unescaped by mistake.
_URL_REST = re.compile(r"(?<=://)\S+")
_PARAMETER = re.compile(r"(?<=[?&;#])([^?&;#=\s]*)=([^&;#\s]*)")
_SECRET = ("pass", "pwd", "token", "secret", "credential", "key", "auth", "signature")
#: Parameters whose names hold such a word and whose values are no secrets.
_OPEN = ("keyfile", "keepalive", "prefix")
_HOST = r"(?:\[[0-9A-Fa-f:.]*\]|[^:/,\[\]]+)(?::\d*)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/|$)")


class MaskedUrl(str):
    """A URL that shows itself masked: by `repr`, and so in a traceback with its local variables. `str` has it whole."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(mask_url(str(self)))


def mask_url(url: str) -> str:
    """A URL with its password, and parameters such as `password=` or `token=`, replaced by `**`."""
    scheme, separator, rest = url.partition(_SEPARATOR)
    return scheme + separator + _masked(rest) if separator else url


def mask_text(text: str) -> str:
    """A text with every URL in it masked."""
    return _URL_REST.sub(lambda found: _masked(found[0]), text) if _SEPARATOR in text else text


def _masked(rest: str) -> str:
    """What follows the `://`, masked."""
    before, mark, query = rest.partition("?")
    if "@" not in before and "@" in query and not _HOSTS.match(before):
        before, mark, query = rest, "", ""  # the question mark is part of a password
    credentials, at, place = before.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        # Without a colon it may be a name or, as in NATS, a token: hidden.
        before = f"{user}:{_MASK}@{place}" if colon else f"{_MASK}@{place}"
    return _PARAMETER.sub(_parameter, before + mark + query)


def _parameter(found: re.Match[str]) -> str:
    name = found[1].lower()
    if any(word in name for word in _SECRET) and not any(word in name for word in _OPEN):
        return f"{found[1]}={_MASK}"
    return found[0]
