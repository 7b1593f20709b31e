"""Pages of a real Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required")


@asynccontextmanager
async def opened(*arguments: str, patience: float = 60.0, **options: Any) -> AsyncIterator[Any]:
    """An empty page; skips where there is no Chromium. `patience`: seconds. `options`: of the page."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if not CHROMIUM.exists():  # noqa: ASYNC240 - once, before anything runs
        pytest.skip("Chromium is not installed")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*_ARGUMENTS, *arguments])
        try:
            page = await browser.new_page(**options)
            page.set_default_timeout(patience * 1000)
            yield page
        finally:
            await browser.close()


def errors_of(page: Any) -> list[str]:
    """What goes wrong in a page from now on, what its policy forbids included."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    return errors
