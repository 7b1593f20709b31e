"""The browser's processes: they end with the bot's process group, whatever ends that, and leave nothing anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from streamtask_contrib.bot.drivers.chromium import find_chromium
from streamtask_contrib.bot.drivers.port import JoinError

from tests.chaos.workers import until
from tests.contrib.bot.drivers.listening import PATIENCE, measured
from tests.contrib.bot.drivers.processes import alive_in, alive_of_group

pytestmark = pytest.mark.timeout(120)

#: A bot that goes to a meeting and stays there.
BOT = """
import asyncio, pathlib, sys
from streamtask_contrib.bot.drivers.browser import make_driver
from streamtask_contrib.bot.drivers.port import Heard, Invitation

async def main(url, folder):
    driver = make_driver(Invitation(meeting_url=url, display_name="bot", folder=pathlib.Path(folder)))
    await driver.join()
    async for happening in driver.happenings():
        if isinstance(happening, Heard):
            print("heard", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("first", ["the bot", "nobody"])
async def test_a_killed_bot_leaves_no_browser_no_node_and_no_file(site, tmp_path, first):
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is not installed")
    folder, elsewhere = tmp_path / "bot", tmp_path / "tmp"
    folder.mkdir()
    elsewhere.mkdir()
    bot = _start(f"{site.url}/elements.html", folder, elsewhere)
    try:
        assert bot.stdout.readline() == b"heard\n"
        processes = alive_of_group(bot.pid)
        assert sum("--type=renderer" in each for each in processes) >= 1
        assert sum("run-driver" in each for each in processes) == 1
        if first == "the bot":
            # Then it is its orchestrator that ends the group, after it has seen the bot's death.
            bot.kill()
            bot.wait()
    finally:
        began = time.monotonic()
        os.killpg(bot.pid, signal.SIGKILL)
        bot.wait()
        bot.stdout.close()
    await until(lambda: not alive_of_group(bot.pid) and not alive_in(folder), within=PATIENCE)
    measured(processes=len(processes), gone_after_s=round(time.monotonic() - began, 2))
    shutil.rmtree(folder)
    assert list(elsewhere.iterdir()) == []


def _start(url: str, folder: Path, elsewhere: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", BOT, url, str(folder)],
        env=os.environ | {"TMPDIR": str(elsewhere), "HOME": str(elsewhere)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def test_the_browser_that_is_wanted_is_taken_or_the_first_on_path(tmp_path, monkeypatch):
    for name in ("google-chrome", "chromium-browser", "mine"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium("") == str(tmp_path / "chromium-browser")
    assert find_chromium("mine") == find_chromium(str(tmp_path / "mine")) == str(tmp_path / "mine")
    with pytest.raises(JoinError, match="STREAMTASK_BOT_CHROMIUM"):
        find_chromium("theirs")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JoinError, match="no Chromium on PATH") as missing:
        find_chromium("")
    assert missing.value.reason == "no_browser"
