"""The capture in a page of the real Chromium: who comes and goes, what counts as heard, and when it was said."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from streamtask_contrib.bot.drivers import window
from streamtask_contrib.bot.drivers.port import Joined

from tests.chaos.workers import LONG
from tests.contrib.bot.drivers.listening import RATE, Listening, as_wav, likeness, measured, noise
from tests.stalls import undisturbed

pytestmark = pytest.mark.timeout(150)

#: What the pages of these tests are made of: a meeting into which the test calls people. It has a button to join: where
#: none is to be seen, one is waited for.
ROOM = b"""<!doctype html><title>A room</title><main></main><button>Join</button>
<script>
  const room = document.querySelector("main");
  const tell = (facts) => navigator.sendBeacon("/told?" + new URLSearchParams(facts));
  function add(kind, facts = {}) {
    const element = Object.assign(document.createElement(kind), { autoplay: true, loop: true }, facts);
    room.append(element);
    return element;
  }
  // A track that comes from another, who says what is to be heard at `source`, and its stream.
  async function connected(source) {
    const context = new AudioContext();
    const buffer = await context.decodeAudioData(await (await fetch(source)).arrayBuffer());
    const spoken = new AudioBufferSourceNode(context, { buffer, loop: true });
    const line = context.createMediaStreamDestination();
    spoken.connect(line);
    const [mouth, ear] = [new RTCPeerConnection(), new RTCPeerConnection()];
    mouth.onicecandidate = ({ candidate }) => candidate && ear.addIceCandidate(candidate);
    ear.onicecandidate = ({ candidate }) => candidate && mouth.addIceCandidate(candidate);
    const found = new Promise((resolve) => { ear.ontrack = ({ streams }) => resolve(streams[0]); });
    mouth.addTrack(line.stream.getAudioTracks()[0], line.stream);
    await mouth.setLocalDescription();
    await ear.setRemoteDescription(mouth.localDescription);
    await ear.setLocalDescription();
    await mouth.setRemoteDescription(ear.localDescription);
    spoken.start();
    globalThis.mouths = [...(globalThis.mouths ?? []), mouth];
    return found;
  }
</script>"""


@pytest.fixture
def room(site):
    """The site, with the room on it and sounds in which nobody can be mistaken for another."""
    site.files["/room.html"] = ROOM
    for seed, name in enumerate(("one", "two", "three")):
        site.files[f"/{name}.wav"] = as_wav(noise(3, seed=seed))
    return site


async def run(meeting: Listening, script: str) -> object:
    """Do something in the page."""
    return await meeting.driver._window._shown.evaluate(script)


def is_like(meeting: Listening, name: str, seed: int, *, last: float = 2.0) -> float:
    """How alike the last seconds of somebody are to a sound of the room."""
    return likeness(meeting.samples(name)[-round(last * RATE) :], noise(3, seed=seed))[0]


# ── who is there ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_comes_later_is_heard_and_who_is_removed_has_left(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "ada = add('audio', { src: '/one.wav', ariaLabel: 'Ada' }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 1)
        await run(meeting, "bea = add('audio', { src: '/two.wav', title: 'Bea' }), 0")
        await meeting.until(lambda: meeting.seconds("Bea") > 1)
        assert meeting.present == ["Ada", "Bea"]
        await run(meeting, "ada.remove()")
        await meeting.until(lambda: meeting.present == ["Bea"])
        heard = meeting.seconds("Ada")
        await run(meeting, "add('audio', { src: '/one.wav', ariaLabel: 'Ada' }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > heard + 1)
        assert meeting.present == ["Bea", "Ada"]


async def test_another_sound_in_the_same_element_is_heard_of_the_same_participant(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "ada = add('audio', { src: '/one.wav', ariaLabel: 'Ada' }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 2.5)
        assert is_like(meeting, "Ada", seed=0) > 0.4
        await run(meeting, "ada.src = '/two.wav'")
        await meeting.until(lambda: meeting.seconds("Ada") > 6)
        assert is_like(meeting, "Ada", seed=1) > 0.4
        assert is_like(meeting, "Ada", seed=0) < 0.1
        await run(meeting, "connected('/three.wav').then((stream) => { ada.srcObject = stream; })")
        await meeting.until(lambda: meeting.seconds("Ada") > 10)
        assert is_like(meeting, "Ada", seed=2) > 0.2
        assert meeting.present == ["Ada"]
        assert len(meeting.all(Joined)) == 1


async def test_several_elements_of_one_participant_are_one_voice(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(
            meeting,
            """for (const source of ["/one.wav", "/two.wav"]) {
                 const audio = add("audio");
                 audio.dataset.participant = "Ada";
                 audio.src = source;
               }""",
        )
        await meeting.until(lambda: meeting.seconds("Ada") > 4)
        assert len(meeting.all(Joined)) == 1
        assert is_like(meeting, "Ada", seed=0) > 0.3
        assert is_like(meeting, "Ada", seed=1) > 0.3
        [first] = {each.participant for each in meeting.blocks("Ada")}
        assert sum(len(each.pcm) for each in meeting.blocks("Ada")) / 2 / RATE < time.monotonic() - meeting.driver._made
        assert first == meeting.all(Joined)[0].participant


async def test_a_track_that_several_elements_play_is_heard_once(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(
            meeting,
            """connected("/one.wav").then((stream) => {
                 add("audio", { srcObject: stream, ariaLabel: "Ada" });
                 add("video", { srcObject: stream, ariaLabel: "Ada on stage" });
               })""",
        )
        await meeting.until(lambda: meeting.seconds("Ada") > 3)
        assert meeting.present == ["Ada"]


async def test_who_has_no_name_gets_a_number_and_who_gets_a_name_has_it_from_then_on(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "ada = add('audio', { src: '/one.wav' }), add('audio', { src: '/two.wav' }), 0")
        await meeting.until(lambda: meeting.present == ["Participant 1", "Participant 2"])
        await meeting.until(lambda: meeting.seconds("Participant 1") > 1)
        # Nothing of what was said while the name was waited for is lost.
        assert meeting.seconds("Participant 1") > 2
        await run(meeting, "ada.title = 'Ada'")
        await meeting.until(lambda: meeting.seconds("Ada") > 1)
        assert meeting.present == ["Ada", "Participant 2"]
        before, after = meeting.blocks("Participant 1")[-1], meeting.blocks("Ada")[0]
        assert after.at == pytest.approx(before.at + len(before.pcm) / 2 / RATE, abs=0.05)


async def test_a_frame_of_the_page_is_heard_and_its_people_leave_with_it(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "frame = add('iframe', { src: '/elements.html' }), 0")
        await meeting.until(lambda: len(meeting.driver._window._shown.frames) == 2)
        await meeting.driver._window._shown.frames[1].click("#join")
        await meeting.until(lambda: sorted(meeting.present) == ["Alice", "Bob"])
        await meeting.until(lambda: meeting.seconds("Bob") > 1)
        await run(meeting, "frame.remove()")
        await meeting.until(lambda: meeting.present == [])


# ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_person_would_not_hear_is_not_heard(driver_for, room):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(
            meeting,
            """add("audio", { src: "/one.wav", ariaLabel: "Muted", muted: true });
               add("audio", { src: "/one.wav", ariaLabel: "Paused", autoplay: false });
               navigator.mediaDevices.getUserMedia({ audio: true })
                 .then((own) => add("video", { srcObject: own, ariaLabel: "Myself", muted: true }));
               ada = add("audio", { src: "/one.wav", ariaLabel: "Ada" }), 0""",
        )
        await meeting.until(lambda: meeting.seconds("Ada") > 3)
        assert meeting.present == ["Ada"]
        await run(meeting, "ada.muted = true")
        await meeting.until(lambda: not meeting.samples("Ada")[-RATE:].any())
        await run(meeting, "ada.muted = false")
        await meeting.until(lambda: is_like(meeting, "Ada", seed=0) > 0.4)
        # Silence is reported, too: who is muted is still there. A busy machine drops a moment of sound now and then.
        assert meeting.lost("Ada", least=0.1) == []
        assert meeting.present == ["Ada"]


@pytest.mark.parametrize("played", ["muted", "not at all"])
async def test_who_speaks_over_a_connection_is_heard_however_the_page_plays_it(driver_for, room, played):
    name, show = "Participant 1", "globalThis.kept = stream"
    if played == "muted":
        name, show = "Ada", "add('audio', { srcObject: stream, muted: true, ariaLabel: 'Ada' })"
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, f"connected('/one.wav').then((stream) => {{ {show}; }})")
        await meeting.until(lambda: meeting.seconds(name) > 4)
        alike = is_like(meeting, name, seed=0)
        measured(played=played, alike=round(alike, 2))
        assert alike > 0.2
        await run(meeting, "document.querySelectorAll('audio').forEach((each) => each.remove()); mouths[0].close()")


async def test_a_recording_of_another_site_that_may_not_be_heard_is_said(driver_for, room, caplog):
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, f"add('audio', {{ src: 'http://localhost:{room.port}/one.wav', ariaLabel: 'Far' }}), 0")
        await meeting.until(lambda: "browser.not_heard" in caplog.text)
        assert meeting.present == []


# ── when it was said ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_that_stalls_loses_and_reorders_nothing(driver_for, room):
    room.files["/long.wav"] = as_wav(noise(8, seed=7))
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "add('audio', { src: '/long.wav', ariaLabel: 'Ada', loop: false }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 2)
        await run(meeting, "setTimeout(() => { const end = Date.now() + 3000; while (Date.now() < end); }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 8.5)
        alike, _ = likeness(meeting.samples("Ada"), noise(8, seed=7))
        measured(alike=round(alike, 3), gaps=meeting.gaps("Ada"))
        assert alike > 0.98
        assert [each.at for each in meeting.blocks("Ada")] == sorted(each.at for each in meeting.blocks("Ada"))
        assert meeting.lost("Ada", least=0.1) == []


async def test_the_time_of_what_is_heard_stays_right(driver_for, room):
    """A second of sound begins with a jump from silence; where it is heard is compared with when the page did it."""
    seconds = 60 if LONG else 11

    async def jumps() -> list[float]:
        async with Listening(driver_for("/room.html")) as meeting:
            await run(
                meeting,
                f"""const context = new AudioContext();
                    const line = context.createMediaStreamDestination();
                    const tone = new OscillatorNode(context, {{ frequency: 500 }});
                    const loudness = new GainNode(context, {{ gain: 0 }});
                    tone.connect(loudness).connect(line);
                    tone.start();
                    for (let at = 2; at < {seconds}; at += 2) {{
                      loudness.gain.setValueAtTime(0.5, context.currentTime + at);
                      loudness.gain.setValueAtTime(0, context.currentTime + at + 1);
                    }}
                    add("audio", {{ srcObject: line.stream, ariaLabel: "Ada" }}), 0""",
            )
            began = time.monotonic() - meeting.driver._made
            await meeting.until(lambda: meeting.seconds("Ada") > seconds, within=seconds + 30)
            whole, begin = meeting.placed("Ada")
        loud = np.abs(whole.astype(int)) > 2000
        places = (place for place in np.flatnonzero(loud) if not loud[max(0, place - 1600) : place].any())
        return [begin + place / RATE - began for place in places]

    late = [jump - 2 * number for number, jump in enumerate(await undisturbed(jumps), 1)]
    measured(first_ms=round(late[0] * 1000), spread_ms=round((max(late) - min(late)) * 1000), jumps=len(late))
    assert len(late) == (seconds - 1) // 2
    assert max(late) - min(late) < 0.05
    assert abs(late[0]) < 0.15


async def test_a_clock_that_was_stopped_goes_on_and_the_time_is_right_again(driver_for, room, monkeypatch):
    remembered = (
        "globalThis.contexts = []; const Before = AudioContext; globalThis.AudioContext = class extends Before {"
    )
    remembered += "constructor(...options) { super(...options); contexts.push(this); } };"
    capture = window._capture
    monkeypatch.setattr(window, "_capture", lambda *given: f"{remembered}\n{capture(*given)}")
    async with Listening(driver_for("/room.html")) as meeting:
        await run(meeting, "add('audio', { src: '/one.wav', ariaLabel: 'Ada' }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 1.5)
        await run(meeting, "contexts[0].resume = () => Promise.reject(new Error('not yet')), contexts[0].suspend()")
        await asyncio.sleep(2)
        heard = meeting.seconds("Ada")
        await run(meeting, "delete contexts[0].resume")
        await meeting.until(lambda: meeting.seconds("Ada") > heard + 1.5)
        now = time.monotonic() - meeting.driver._made
        last = meeting.blocks("Ada")[-1]
        measured(gaps=meeting.gaps("Ada"), behind_ms=round((now - last.at - len(last.pcm) / 32_000) * 1000))
        assert max(meeting.gaps("Ada")) > 1.5
        assert -0.05 < now - last.at - len(last.pcm) / 2 / RATE < 0.5


async def test_a_page_without_a_safe_way_has_no_worklets_and_is_heard_all_the_same(driver_for, room, tmp_path):
    there = tmp_path / "chromium"
    there.write_text('#!/bin/sh\nexec chromium --host-resolver-rules="MAP meet.test 127.0.0.1" "$@"\n')
    there.chmod(0o755)
    driver = driver_for(f"http://meet.test:{room.port}/room.html", settings={"chromium": str(there)})
    async with Listening(driver) as meeting:
        assert await run(meeting, "isSecureContext") is False
        await run(meeting, "add('audio', { src: '/one.wav', ariaLabel: 'Ada' }), 0")
        await meeting.until(lambda: meeting.seconds("Ada") > 3.5)
        alike = likeness(meeting.samples("Ada")[: 3 * RATE], noise(3, seed=0))[0]
        measured(alike=round(alike, 3), gaps=meeting.gaps("Ada"))
        assert alike > 0.6


async def test_a_policy_of_the_page_does_not_keep_the_capture_out(driver_for, room):
    # Nor does it that there is no button to join.
    strict = b"""<meta http-equiv="Content-Security-Policy" content="script-src 'none'; connect-src 'none'">
        <audio src="/one.wav" autoplay loop title="Ada"></audio>"""
    room.files["/strict.html"] = strict
    async with Listening(driver_for("/strict.html")) as meeting:
        await meeting.until(lambda: meeting.seconds("Ada") > 1)
