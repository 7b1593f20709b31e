"""The driver in the real Chromium: two who speak, by elements and by WebRTC, and all that can go wrong on the way."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

import psutil
import pytest
from streamtask_contrib.bot.drivers.port import Admitted, Ended, Heard, Joined, JoinError

from tests.contrib.bot.drivers.listening import Listening, channels, likeness_by_parts, measured
from tests.contrib.bot.drivers.processes import alive_in
from tests.servers import free_port

pytestmark = pytest.mark.timeout(150)


# ── two who speak ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("page", "alike"), [("/elements.html", 0.98), ("/webrtc.html", 0.7)])
async def test_each_participant_is_heard_under_the_right_name(driver_for, site, page, alike):
    alice, bob = channels()
    length = len(alice) / 16_000
    async with Listening(driver_for(page)) as meeting:
        await meeting.until(lambda: min(map(meeting.seconds, ("Alice", "Bob"))) > length + 2)

        assert meeting.is_admitted
        assert sorted(meeting.present) == ["Alice", "Bob"]
        heard = {name: meeting.samples(name) for name in ("Alice", "Bob")}
        figures = {
            f"{name}_as_{said}": round(likeness_by_parts(heard[name], source), 3)
            for name in heard
            for said, source in (("Alice", alice), ("Bob", bob))
        }
        measured(page=page, **figures, gaps=len(meeting.gaps("Alice")) + len(meeting.gaps("Bob")))
        assert min(figures["Alice_as_Alice"], figures["Bob_as_Bob"]) > alike
        assert max(figures["Alice_as_Bob"], figures["Bob_as_Alice"]) < 0.2
        for name, source in (("Alice", alice), ("Bob", bob)):
            energy = float((heard[name].astype(float) ** 2).sum() / (source.astype(float) ** 2).sum())
            assert 0.7 < energy < 1.3, name


async def test_participants_are_told_before_their_sound_and_leave_before_the_end(driver_for, site):
    async with Listening(driver_for("/elements.html")) as meeting:
        await meeting.until(lambda: min(map(meeting.seconds, ("Alice", "Bob"))) > 1)
        began = time.monotonic()
        await meeting.driver.leave()
        took = time.monotonic() - began
        await meeting.over()

        measured(leave_s=round(took, 2))
        assert took < 8
        kinds = [type(each) for each in meeting.happened]
        assert kinds[0] is Admitted
        assert kinds.index(Joined) < kinds.index(Heard)
        assert Ended not in kinds
    assert site.told == [("joined", "Streamtask bot"), ("left", "by-the-button")]


async def test_what_was_said_up_to_the_moment_of_leaving_is_not_lost(driver_for):
    async with Listening(driver_for("/elements.html")) as meeting:
        await meeting.until(lambda: meeting.seconds("Alice") > 2)
        before = time.monotonic() - meeting.driver._made
        await meeting.driver.leave()
        await meeting.over()

        last = meeting.blocks("Alice")[-1]
        assert last.at + len(last.pcm) / 32_000 > before - 0.1


async def test_what_is_no_whole_block_yet_can_be_asked_for(driver_for):
    async with Listening(driver_for("/elements.html")) as meeting:
        await meeting.until(lambda: meeting.seconds("Alice") > 2)
        whole = max(len(each.pcm) for each in meeting.blocks("Alice"))
        for _ in range(3):
            await meeting.driver._window.flush()
            await asyncio.sleep(0.25)
        assert min(len(each.pcm) for each in meeting.blocks("Alice")[3:]) < whole
        assert meeting.lost("Alice") == []


async def test_nothing_is_left_after_close_and_close_may_come_again(driver_for, tmp_path):
    async with Listening(driver_for("/elements.html")) as meeting:
        assert any("--type=renderer" in each for each in map(str, alive_in(tmp_path)))
        await meeting.driver.close()
        assert alive_in(tmp_path) == []
        await meeting.driver.close()


# ── that cannot be joined ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "data:text/html,hello", "chrome://version", "javascript:1", "http://", "http://["]
)
async def test_only_addresses_of_the_web_are_opened(driver_for, tmp_path, address):
    with pytest.raises(JoinError) as refused:
        await driver_for("", meeting_url=address).join()
    assert refused.value.reason == "address_refused"
    assert "passwd" not in str(refused.value)


async def test_only_hosts_of_meetings_are_opened_also_by_a_redirect(driver_for, site):
    settings = {"meeting_hosts": ("127.0.0.1",)}
    site.redirects["/moved"] = f"http://localhost:{site.port}/elements.html"
    site.redirects["/twice"] = "/moved"
    async with Listening(driver_for("/elements.html", settings=settings)):
        pass
    for path in ("/moved", "/twice"):
        with pytest.raises(JoinError, match="localhost is not among") as refused:
            async with Listening(driver_for(path, settings=settings)):
                pass
        assert refused.value.reason == "address_refused"
    assert site.asked.count("/elements.html") == 1


async def test_a_page_that_never_loads_can_be_given_up(driver_for):
    driver = driver_for("/never")
    joining = asyncio.create_task(driver.join())
    await asyncio.sleep(3)
    assert not joining.done()
    began = time.monotonic()
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    await driver.leave()
    await driver.close()
    assert time.monotonic() - began < 10


async def test_a_bot_that_is_stopped_while_its_browser_starts_leaves_none(driver_for):
    driver = driver_for("/elements.html")
    joining = asyncio.create_task(driver.join())
    await asyncio.sleep(0.2)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    await driver.close()


async def test_a_page_that_never_loads_ends_by_itself(driver_for):
    with pytest.raises(JoinError) as failed:
        async with Listening(driver_for("/never", settings={"join_timeout": 0.5})):
            pass
    assert failed.value.reason == "unreachable"
    assert failed.value.may_retry


async def test_a_page_that_is_not_there_is_said_without_its_address(driver_for):
    with pytest.raises(JoinError, match="404") as failed:
        async with Listening(driver_for("/secret-room")):
            pass
    assert (failed.value.reason, failed.value.may_retry) == ("unreachable", False)
    with pytest.raises(JoinError, match="ERR_CONNECTION_REFUSED") as failed:
        async with Listening(driver_for(f"http://127.0.0.1:{free_port()}/secret-room")):
            pass
    assert failed.value.may_retry
    assert "secret" not in str(failed.value)


async def test_a_recipe_that_there_is_not_and_a_browser_that_there_is_not_are_said(driver_for):
    with pytest.raises(JoinError, match="jitsi, generic"):
        await driver_for("/elements.html", recipe="zoom").join()
    with pytest.raises(JoinError, match="apt install chromium") as failed:
        await driver_for("/elements.html", settings={"chromium": "/no/such/browser"}).join()
    assert failed.value.reason == "no_browser"


async def test_a_browser_that_does_not_start_is_said_with_what_it_said(driver_for, tmp_path):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no usable sandbox >&2\nexit 1\n")
    broken.chmod(0o755)
    driver = driver_for("/elements.html", settings={"chromium": str(broken)})
    with pytest.raises(JoinError, match="no usable sandbox") as failed:
        await driver.join()
    await driver.close()
    assert failed.value.reason == "browser_not_started"


# ── that ends by itself ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_that_goes_elsewhere_has_ended_the_call(driver_for):
    async with Listening(driver_for("/elements.html")) as meeting:
        await meeting.until(lambda: meeting.present == ["Alice", "Bob"])
        await meeting.driver._window._shown.evaluate("location.pathname = '/webrtc.html'")
        await meeting.over()
        assert meeting.ended == ["navigated_away"]
        assert meeting.faults == []


async def test_a_page_that_crashes_is_a_fault_not_the_end_of_the_meeting(driver_for):
    async with Listening(driver_for("/elements.html")) as meeting:
        await meeting.until(lambda: meeting.seconds("Alice") > 0.5)
        for process in _browser(meeting).children(recursive=True):
            with suppress(psutil.Error):  # zombies
                if "--type=renderer" in process.cmdline():
                    process.kill()
        await meeting.over()
        assert meeting.ended == meeting.faults == ["page_crashed"]


async def test_a_browser_that_crashes_is_a_fault_not_the_end_of_the_meeting(driver_for):
    async with Listening(driver_for("/elements.html")) as meeting:
        _browser(meeting).send_signal(signal.SIGKILL)
        await meeting.over()
        assert meeting.ended == meeting.faults == ["browser_crashed"]
        began = time.monotonic()
        await meeting.driver.leave()
        assert time.monotonic() - began < 10


def _browser(meeting: Listening) -> psutil.Process:
    return psutil.Process(meeting.driver._chromium._process.pid)


# ── that would have its way with the bot ──────────────────────────────────────────────────────────────────────────────


async def test_dialogs_popups_and_downloads_are_refused(driver_for, site, tmp_path):
    site.files["/pushy.html"] = b"""
        <button onclick="popup = window.open('/elements.html')">Join</button>
        <script>
          const tell = (what) => navigator.sendBeacon("/told?" + new URLSearchParams(what));
          let popup = null;
          setInterval(() => popup?.closed && tell({ closed: "" }), 100);
          tell({ confirmed: confirm("Really?") });
          const link = Object.assign(document.createElement("a"), { href: "/bob.wav", download: "bob.wav" });
          link.click();
          onbeforeunload = (event) => event.preventDefault();
          navigator.mediaDevices.getUserMedia({ audio: true, video: true }).then(
            (stream) => tell({ microphone: stream.getAudioTracks()[0].label }));
        </script>"""
    async with Listening(driver_for("/pushy.html")) as meeting:
        await meeting.until(lambda: "microphone" in dict(site.told))
        assert dict(site.told)["confirmed"] == "false"
        assert "Fake" in dict(site.told)["microphone"]
        await meeting.until(lambda: "closed" in dict(site.told))
        assert len(meeting.driver._window._context.pages) == 1
        await meeting.driver.leave()
        assert list(tmp_path.rglob("bob*")) == []


async def test_a_page_cannot_speak_in_the_name_of_its_participants(driver_for, site):
    site.files["/forger.html"] = b"""<button>Join</button><script>
        const ours = Object.getOwnPropertyNames(window).filter((name) => /^streamtask/.test(name));
        const found = ours.filter((name) => !name.endsWith("flush"));
        navigator.sendBeacon("/told?" + new URLSearchParams({ found }));
        </script>"""
    async with Listening(driver_for("/forger.html")) as meeting:
        await meeting.until(lambda: "found" in dict(site.told))
    assert dict(site.told)["found"] == ""
