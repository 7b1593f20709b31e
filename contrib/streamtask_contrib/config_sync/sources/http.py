"""Pages: a document for each service at an address, read by GET, written, where that is allowed, by PUT."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Final

import httpx

from streamtask import ConfigurationError
from streamtask_contrib.config_sync.documents import FORMS, MAX_BYTES, Form
from streamtask_contrib.config_sync.settings import ConfigSettings
from streamtask_contrib.config_sync.sources.port import (
    ChangedError,
    MissingError,
    NotWritableError,
    Reading,
    SourceError,
)
from streamtask_contrib.config_sync.versions import Version

#: How a document is written, by the words in its Content-Type.
_TYPES: Final[dict[str, Form]] = {"json": "json", "yaml": "yaml", "toml": "toml"}
_SENT: Final[dict[Form, str]] = {"json": "application/json", "yaml": "application/yaml", "toml": "application/toml"}
_FORBIDDEN: Final = {httpx.codes.FORBIDDEN, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED}
_HTTPX: Final = logging.getLogger("httpx")


class _Hidden(logging.Filter):
    """Keeps addresses out of the log: httpx tells each question with its whole address, password, query and all."""

    def __init__(self, addresses: Iterable[httpx.URL]) -> None:
        super().__init__()
        self._addresses = frozenset(addresses)

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(each, httpx.URL) and each in self._addresses for each in arguments)


class HttpSource:
    """Pages of one server, or of several. An unchanged page costs a question and a short answer, by its ETag."""

    def __init__(self, settings: ConfigSettings) -> None:
        """`settings`: whatever of them begins with `http_`, and `pages`.

        Raises:
            ConfigurationError: an address is none.
        """
        token = settings.http_token.get_secret_value()
        self._client = httpx.AsyncClient(
            timeout=settings.http_timeout,
            # What comes compressed may be a thousand times as long; no document is long enough to be worth it.
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {}),
        )
        self._pages = {service: _address(service, text) for service, text in settings.pages.items()}
        #: Without user, password and query: they may be secrets.
        self._places = {
            service: str(url.copy_with(username=None, password=None, query=None, fragment=None))
            for service, url in self._pages.items()
        }
        self._hidden = _Hidden(self._pages.values())
        _HTTPX.addFilter(self._hidden)
        self._is_writable = settings.http_writable
        #: What was read last, with its ETag.
        self._last: dict[str, Reading] = {}
        self.name = "\n".join(sorted(self._places.values()))
        self.every = settings.http_every

    async def services(self) -> dict[str, str]:
        """See `Source.services`."""
        return dict(self._places)

    def holds(self, place: str) -> bool:
        """See `Source.holds`."""
        return place in self._places.values()

    async def read(self, service: str) -> Reading:
        """See `Source.read`."""
        last = self._last.get(service)
        headers = {"If-None-Match": last.tag} if last is not None and last.tag else {}
        try:
            async with self._client.stream("GET", self._pages[service], headers=headers) as response:
                if response.status_code == httpx.codes.NOT_MODIFIED and last is not None:
                    return last
                self._check(service, response)
                content = b""
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > MAX_BYTES:
                        raise SourceError(f"the page {self._places[service]} has more than {MAX_BYTES} bytes")
        except httpx.HTTPError as error:
            raise self._failed(service, error) from None
        reading = Reading(content, self._form(service, response), tag=response.headers.get("ETag", ""))
        self._last[service] = reading
        return reading

    def rendered(self, version: Version) -> bytes:
        """See `Source.rendered`."""
        if not self._is_writable:
            raise NotWritableError(
                f"the page {self._places[version.service]} is only read; set STREAMTASK_CONFIG_HTTP_WRITABLE=1"
            )
        return version.content

    async def write(
        self, service: str, version: Version, instead_of: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        """See `Source.write`."""
        headers = {"Content-Type": _SENT[version.form]}
        if instead_of is None:
            headers["If-None-Match"] = "*"
        elif instead_of.tag:
            headers["If-Match"] = instead_of.tag
        if not is_ours():
            raise ChangedError(f"another worker looks after {self._places[service]} now")
        try:
            response = await self._client.put(self._pages[service], content=version.content, headers=headers)
        except httpx.HTTPError as error:
            raise self._failed(service, error) from None
        if response.status_code == httpx.codes.PRECONDITION_FAILED:
            raise ChangedError(f"the page {self._places[service]} has just been changed")
        if response.status_code in _FORBIDDEN:
            raise NotWritableError(f"the page {self._places[service]} must not be written: {response.status_code}")
        self._check(service, response)

    async def close(self) -> None:
        """See `Source.close`."""
        _HTTPX.removeFilter(self._hidden)
        await self._client.aclose()

    def _form(self, service: str, response: httpx.Response) -> Form:
        told = response.headers.get("Content-Type", "")
        by_type = next((form for word, form in _TYPES.items() if word in told), None)
        return by_type or FORMS.get(PurePosixPath(self._pages[service].path).suffix, "json")

    def _check(self, service: str, response: httpx.Response) -> None:
        if response.status_code in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
            raise MissingError(f"there is no page {self._places[service]}")
        if not response.is_success:
            raise SourceError(f"the page {self._places[service]} cannot be had: {response.status_code}")

    def _failed(self, service: str, error: httpx.HTTPError) -> SourceError:
        # Not its own words: they may have the whole address.
        return SourceError(f"the page {self._places[service]} cannot be had: {type(error).__name__}")


def _address(service: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        # Not the address: it may have a password.
        raise ConfigurationError(f"STREAMTASK_CONFIG_PAGES: the address of {service} is none of http or https")
    return url
