"""One window of a browser with a meeting in it: opened, kept where it may be, asked, pressed, and listened to.

This is what knows Playwright. It knows nothing of what a meeting is: selectors and expressions come from a recipe, and
what the page reports goes to whoever asked for the window. No call of the page is waited for without a limit: a page
that hangs must not hold up whoever wants to leave it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from playwright.async_api import (
    Browser,
    BrowserContext,
    CDPSession,
    Error,
    Locator,
    Page,
    Playwright,
    async_playwright,
)

from streamtask_contrib.bot.drivers.addresses import Addresses
from streamtask_contrib.bot.drivers.port import JoinError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: The capture, in the order in which its parts need each other.
_PAGE = Path(__file__).with_name("page")
_PARTS = ("reporting.js", "voices.js", "tracks.js", "people.js", "capture.js")
#: Seconds that a page may take to answer; and to do what a press of a button makes it do.
_ANSWERS_WITHIN = 5.0
_PRESSED_WITHIN = 2.0
#: Seconds that what the capture has heard takes to come; and what else the browser has to say when a page is closed.
_FLUSHES_WITHIN = 1.0
_LAST_WORDS = 1.0
#: Seconds that Playwright may take to find the browser.
_CONNECTS_WITHIN = 30.0


class Listener(Protocol):
    """Who hears of what happens in a window."""

    def reported(self, frame: object, report: object) -> None:
        """The capture in a frame reports something."""

    def gone(self, frame: object) -> None:
        """A frame is no longer there."""

    def loaded(self) -> None:
        """The window shows another page."""

    def broken(self, reason: str) -> None:
        """The window will say no more."""


class Window:
    """A window of the browser that listens at `endpoint`."""

    def __init__(self, listener: Listener, addresses: Addresses) -> None:
        self._listener = listener
        self._addresses = addresses
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = async_playwright()
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._context: BrowserContext | None = None
        self._page: Page | None = None
        #: Why the guard has refused to go on; empty: it has not.
        self._refusal = ""
        #: Names that no page can guess.
        self._binding = f"streamtask{secrets.token_hex(8)}"
        self._flush = f"{self._binding}flush"

    async def connect(self, endpoint: str, folder: Path) -> None:
        """Find the browser. `folder`: for what Playwright writes.

        Raises:
            JoinError: it does not answer.
        """
        self._playwright = await self._starting.start()
        try:
            self._browser = await self._playwright.chromium.connect_over_cdp(
                endpoint, timeout=_CONNECTS_WITHIN * 1000, artifacts_dir=folder
            )
        except Error as error:
            raise JoinError(
                "browser_not_started", f"the browser does not answer: {_without_address(error)}", may_retry=True
            ) from None
        self._browser.on("disconnected", lambda _: self._listener.broken("browser_crashed"))

    async def open(self, address: str, people: dict[str, Any], *, within: float) -> None:
        """Show a page, in a window that has no memory, with the capture in each of its frames.

        Raises:
            JoinError: it may not be shown, or cannot.
        """
        if self._browser is None:
            raise RuntimeError("connect first")
        if refusal := self._addresses.refusal(address):
            raise JoinError("address_refused", refusal)
        await self._replace_context(self._browser, people)
        try:
            response = await self._shown.goto(address, wait_until="domcontentloaded", timeout=within * 1000)
        except Error as error:
            if self._refusal:
                raise JoinError("address_refused", self._refusal) from None
            raise JoinError(
                "unreachable", f"the page does not load: {_without_address(error)}", may_retry=True
            ) from None
        if response is not None and response.status >= 400:  # noqa: PLR2004 - HTTP's own
            message = f"the page cannot be had: its server answers {response.status}"
            raise JoinError("unreachable", message, may_retry=response.status >= 500)  # noqa: PLR2004

    @property
    def is_open(self) -> bool:
        """Whether there is a page to be asked."""
        return self._page is not None

    async def has(self, selector: str) -> bool:
        """Whether there is such a thing in the page, in any of its frames, seen or not."""
        return await self._find(selector) is not None

    async def shows(self, selector: str) -> bool:
        """Whether such a thing is to be seen."""
        return await self._find(f"{selector} >> visible=true") is not None

    async def holds(self, expression: str) -> bool:
        """Whether an expression of the page's language is true in one of its frames."""
        for frame in self._shown.frames:
            if await _answer(frame.evaluate(expression), otherwise=False) is True:
                return True
        return False

    async def press(self, selector: str) -> bool:
        """Press such a button if there is one to be seen, and it can be pressed."""
        button = await self._find(f"{selector} >> visible=true")
        if button is None or not await _answer(button.is_enabled(), otherwise=False):
            return False
        try:
            await button.click(timeout=_PRESSED_WITHIN * 1000)
        except Error:
            # Something lies over it: a banner, a tooltip.
            await _answer(button.dispatch_event("click"), otherwise=None)
        return True

    async def fill(self, selector: str, text: str) -> None:
        """Write into such a field if there is one to be seen."""
        field = await self._find(f"{selector} >> visible=true")
        if field is not None:
            await _answer(field.fill(text, timeout=_PRESSED_WITHIN * 1000), otherwise=None)

    async def flush(self) -> None:
        """Have the capture report all that it has heard."""
        calls = [frame.evaluate(f"globalThis.{self._flush}?.()") for frame in self._shown.frames]
        await asyncio.gather(*(_answer(call, otherwise=None, within=_FLUSHES_WITHIN) for call in calls))

    async def leave(self) -> None:
        """Show nothing more: what the page has open is closed as when somebody goes elsewhere."""
        await _answer(self._shown.goto("about:blank"), otherwise=None, within=_PRESSED_WITHIN)

    async def close(self) -> None:
        """Let go of the browser, which is ended by whoever started it. After `connect`, whether it succeeded or not."""
        if self._browser is not None:
            await _answer(self._browser.close(), otherwise=None, within=_LAST_WORDS)
        if self._playwright is not None:
            with suppress(Error):
                await self._playwright.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ── how it is made ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _replace_context(self, browser: Browser, people: dict[str, Any]) -> None:
        if self._context is not None:
            self._page = None
            await self._context.close()
        self._refusal = ""
        # A worklet comes from a text of ours, which a page's policy may forbid.
        self._context = context = await browser.new_context(
            bypass_csp=True, accept_downloads=False, viewport={"width": 1280, "height": 1440}
        )
        await context.expose_binding(self._binding, self._reported)
        await context.add_init_script(_capture(self._binding, self._flush, people))
        self._page = page = await context.new_page()
        await self._guard(await context.new_cdp_session(page))
        context.on("page", lambda popup: self._do(popup.close()))
        page.on("crash", lambda _: self._listener.broken("page_crashed"))
        page.on("close", self._closed)
        page.on("domcontentloaded", lambda _: self._listener.loaded())
        page.on("framedetached", self._listener.gone)

    async def _guard(self, session: CDPSession) -> None:
        """Look at the address of every page before the window shows it, also of those that it is redirected to."""
        tree = await session.send("Page.getFrameTree")
        main = tree["frameTree"]["frame"]["id"]

        async def judge(request: dict[str, Any]) -> None:
            refusal = self._addresses.refusal(request["request"]["url"]) if request["frameId"] == main else ""
            verdict: dict[str, Any] = {"requestId": request["requestId"]}
            with suppress(Error):
                if not refusal:
                    await session.send("Fetch.continueRequest", verdict)
                    return
                self._refusal = refusal
                _log.warning("browser.refused", extra={"why": refusal})
                await session.send("Fetch.failRequest", verdict | {"errorReason": "BlockedByClient"})

        session.on("Fetch.requestPaused", lambda request: self._do(judge(request)))
        await session.send("Fetch.enable", {"patterns": [{"resourceType": "Document"}]})

    # ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _reported(self, source: dict[str, Any], report: object) -> None:
        if source["page"] is self._page:
            self._listener.reported(source["frame"], report)

    def _closed(self, page: Page) -> None:
        # A browser that ends closes its pages first.
        if page is self._page:
            self._do(self._tell_closed())

    async def _tell_closed(self) -> None:
        await asyncio.sleep(_LAST_WORDS)
        self._listener.broken("page_closed")

    async def _find(self, selector: str) -> Locator | None:
        for frame in self._shown.frames:
            locator = frame.locator(selector)
            if await _answer(locator.count(), otherwise=0):
                return locator.first
        return None

    @property
    def _shown(self) -> Page:
        if self._page is None:
            raise RuntimeError("nothing is shown")
        return self._page

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # What is not there any more needs no closing.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Error):
            raise error


async def _answer(question: Awaitable[_T], *, otherwise: _T, within: float = _ANSWERS_WITHIN) -> _T:
    """What the page answers; `otherwise` where it does not, or is no longer there."""
    try:
        async with asyncio.timeout(within):
            return await question
    except (Error, TimeoutError):
        return otherwise


def _capture(binding: str, flush: str, people: dict[str, Any]) -> str:
    """The capture as one script. Its parts see each other, and the page sees none of them."""
    settings = {"binding": binding, "flush": flush, "recipe": people, "tap": (_PAGE / "tap.js").read_text("utf-8")}
    parts = "\n".join((_PAGE / part).read_text("utf-8") for part in _PARTS)
    return f'(() => {{\n"use strict";\n{parts}\nstart({json.dumps(settings)});\n}})();'


def _without_address(error: Error) -> str:
    """What went wrong, without the address, in which there may be a token."""
    found = re.search(r"net::\w+|Timeout \d+ms exceeded", error.message)
    return found[0] if found else "it failed"
