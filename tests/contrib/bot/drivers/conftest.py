"""Fixtures of the browser driver: a site, and drivers that go there with the real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the extra `bot` is not installed")
pytest.importorskip("numpy", reason="the extra `audio` is not installed")

from streamtask_contrib.bot.drivers.browser import BrowserDriver, make_driver
from streamtask_contrib.bot.drivers.port import Invitation
from streamtask_contrib.bot.settings import BotSettings

from tests.contrib.bot.drivers.listening import as_wav, channels
from tests.contrib.bot.drivers.processes import alive_in
from tests.contrib.bot.drivers.site import Site

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def site() -> Iterator[Site]:
    """A site with the pages beside this file, on which Alice and Bob can be heard."""
    alice, bob = channels()
    with Site({"/alice.wav": as_wav(alice), "/bob.wav": as_wav(bob)}) as served:
        yield served


@pytest.fixture
def driver_for(site: Site, tmp_path: Path) -> Iterator[Callable[..., BrowserDriver]]:
    """Makes a driver for a path of the site, or another address. Nothing of it may be left after the test."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")

    def make(path: str, *, settings: dict[str, Any] | None = None, **invitation: Any) -> BrowserDriver:
        options = {"meeting_url": path if "://" in path else site.url + path, "display_name": "Streamtask bot"}
        chosen = BotSettings(**({"join_timeout": 60.0} | (settings or {})))
        return make_driver(Invitation(folder=tmp_path, **(options | invitation)), settings=chosen)

    yield make
    assert alive_in(tmp_path) == []
    assert list(tmp_path.glob("browser*")) == [], "the browser's folder is left"
