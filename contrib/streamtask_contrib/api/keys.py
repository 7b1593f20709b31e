"""Who may come in: API keys, and this machine alone where there are none.

A key names a user. Sessions and uploads belong to the user who made them, so a key opens its own sessions only. Without
keys the API is a program for one machine: whoever reaches it from elsewhere, through a proxy, or from the page of
another site, is refused. That a browser on this machine visits a hostile page must not be enough to hear its user.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from fastapi import HTTPException
from pydantic import SecretStr
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamtask_contrib.capture.register import NOBODY

log = logging.getLogger(__name__)

#: What a key is asked for.
_GUARDED = ("/api/", "/v1/", "/metrics")
#: Bytes of an upload's form beside the file.
_FORM = 64 << 10
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Keys:
    """The configured keys."""

    def __init__(self, keys: Mapping[str, SecretStr]) -> None:
        self._keys = {user: key.get_secret_value().encode() for user, key in keys.items()}
        if not self._keys:
            log.warning("api.no_keys", extra={"meaning": "only this machine is let in; set STREAMTASK_API_KEYS"})

    @property
    def refusal(self) -> str:
        """What somebody is told who is not let in."""
        if self._keys:
            return "an API key is needed: send it as `Authorization: Bearer …` or `X-Api-Key: …`"
        return "this API has no keys yet, and so it serves its own machine only; its operator sets STREAMTASK_API_KEYS"

    def user(self, scope: Scope, presented: str = "") -> str | None:
        """Whose request this is; None: nobody's. `presented`: a key that did not come with the request's headers."""
        if not self._keys:
            return NOBODY if _is_local(scope) else None
        given = (presented or _presented(scope)).encode()
        # All of them are compared, each in constant time: how long it takes tells nothing.
        matching = [user for user, key in self._keys.items() if hmac.compare_digest(key, given)]
        return matching[0] if matching and given else None


def _presented(scope: Scope) -> str:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if key := headers.get("x-api-key"):
        return key
    # A browser cannot give a socket headers. Elsewhere a key in a URL would only end up in logs.
    is_socket = scope["type"] == "websocket"
    return QueryParams(scope.get("query_string", b"")).get("key", "") if is_socket else ""


def _is_local(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    client = scope.get("client")
    if client is not None and not _is_loopback(client[0]):
        return False
    if any(name in headers for name in _FORWARDED):
        return False
    host = urlsplit(f"//{headers.get('host', '')}")
    # A name that only resolves to this machine is what a hostile page would be called.
    if not (host.hostname == "localhost" or _is_loopback(host.hostname or "")):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host.netloc


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets a request in or answers 401, before anything of its body is read, and bounds its body.

    It sees HTTP only: sockets ask `Keys` themselves, because a key may come in their first frame.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, max_upload: int) -> None:
        self._app = app
        self._keys = keys
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        user = self._keys.user(scope)
        if user is None:
            answer = JSONResponse({"detail": self._keys.refusal}, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, _bounded(receive, self._max_upload), send)


def _bounded(receive: Receive, limit: int) -> Receive:
    """The same body, until it is too long: a header that says how long it is may be wrong or missing."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit + _FORM:
            raise HTTPException(413, f"the upload has more than {limit} bytes, the limit of this server")
        return message

    return bounded


class Seats:
    """How many things of a kind each user has open in this process, at most `limit` of each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Of all users together."""
        return self._taken.total()

    @contextmanager
    def take(self, user: str) -> Iterator[None]:
        """Have one open. Raises `SeatsTakenError`."""
        if self._taken[user] >= self._limit:
            raise SeatsTakenError(self._limit)
        self._taken[user] += 1
        try:
            yield
        finally:
            self._taken[user] -= 1


class SeatsTakenError(Exception):
    """A user has as many open as one may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} of these are open already with this key, the limit of this server; close one first")
