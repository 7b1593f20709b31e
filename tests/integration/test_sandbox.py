"""Sandboxes: whatever a handler does to its process, the worker lives and knows what became of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from streamtask.errors import ConfigurationError, HandlerTimeoutError, StreamtaskError, WorkerLostError
from streamtask.worker.sandbox import Sandbox
from tests.processes import lives

ENTRIES = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from streamtask.errors import SoftTimeoutError

greeting = "unprepared"
parent = None
kept = []


def attach(worker):
    global parent
    parent = worker


def prepare(arguments):
    global greeting
    greeting = arguments.get("greeting", "prepared")
    if greeting == "fail":
        raise RuntimeError("no model here")
    if greeting == "exit":
        os._exit(9)
    if greeting == "hang":
        time.sleep(600)


def entry(request):
    word, _, rest = request.decode().partition(" ")
    return globals()["do_" + word](rest).encode()


def do_echo(text): return text
def do_greet(text): return greeting
def do_pid(text): return str(os.getpid())
def do_size(text): return str(len(text))
def do_repeat(text): return "x" * int(text)
def do_exit(text): os._exit(int(text))
def do_system_exit(text): sys.exit(3)
def do_raise(text): raise ValueError(text)
def do_nothing(text): return None
def do_segfault(text): ctypes.string_at(0)
def do_print(text): print(text); return "printed"
def do_terminate(text): os.kill(os.getpid(), int(text)); return "alive"


def do_keep(mebibytes):
    kept.append(b"x" * (int(mebibytes) << 20))
    return str(os.getpid())


def do_note_and_exit(path):
    with open(path, "a") as file:
        print(os.getpid(), file=file)
    os._exit(9)


def do_hang(path):
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def do_spin(path):
    Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter


def do_child(path):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    Path(path + ".part").write_text(str(child.pid))
    os.rename(path + ".part", path)
    time.sleep(600)


def do_fork(path):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(path).write_text(str(pid))
    os._exit(4)


def do_tell(text):
    for word in text.split():
        parent.tell(word.encode())
    return "told"


def do_ask(text):
    return (parent.ask(text.encode()) or b"nobody listens").decode()


def do_ask_from_threads(text):
    answers = []
    threads = [threading.Thread(target=lambda n=n: answers.append(do_ask(str(n)))) for n in range(int(text))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return " ".join(sorted(answers, key=len))


def do_leave_a_thread(path):
    def speak():
        time.sleep(0.3)
        parent.tell(b"late")
        Path(path).write_text(do_ask("late"))

    threading.Thread(target=speak).start()
    return "left"


def do_ask_until_late(text):
    asked = 0
    try:
        while True:
            assert do_ask(str(asked)) == f"{asked}!"
            asked += 1
    except SoftTimeoutError:
        return str(asked)


def finish():
    if greeting.startswith("/"):
        Path(greeting).write_text("put away")


def do_soft(text):
    try:
        time.sleep(600)
    except SoftTimeoutError:
        return "tidied up"
"""


@pytest.fixture(autouse=True)
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of entries that children can import."""
    (tmp_path / "sandbox_entries.py").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
async def sandbox(entries: None) -> AsyncIterator[Sandbox]:
    """One child, at most."""
    sandbox = Sandbox("sandbox_entries:entry", size=1)
    yield sandbox
    await sandbox.close(grace=0)


async def until(condition: Callable[[], object], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def written(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() != ""


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_child_answers_and_stays_warm(sandbox: Sandbox) -> None:
    assert await sandbox.run("echo grüße".encode()) == "grüße".encode()
    assert await sandbox.run(b"pid") == await sandbox.run(b"pid")


async def test_megabytes_go_both_ways(sandbox: Sandbox) -> None:
    assert await sandbox.run(b"size " + b"y" * 5_000_000) == b"5000000"
    assert await sandbox.run(b"repeat 5000000") == b"x" * 5_000_000


async def test_prepare_is_called_once_with_the_arguments() -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=1, arguments={"greeting": "hello"})

    assert await sandbox.run(b"greet") == b"hello"

    await sandbox.close(grace=5)


# ── what is said before the answer ────────────────────────────────────────────────────────────────────────────────


class Heard:
    """What the entry has said; each question is answered with itself."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    async def tell(self, words: bytes) -> None:
        self.words.append(words)

    async def answer(self, words: bytes) -> bytes:
        self.words.append(words)
        await asyncio.sleep(0)
        return words + b"!"


async def test_what_a_child_tells_comes_in_order_and_before_its_answer(sandbox: Sandbox) -> None:
    heard = Heard()

    assert await sandbox.run(b"tell one two three", aside=heard.tell) == b"told"

    assert heard.words == [b"one", b"two", b"three"]
    assert await sandbox.run(b"tell nobody hears this") == b"told"
    assert await sandbox.run(b"echo on") == b"on"


async def test_what_a_child_asks_is_answered_to_whichever_thread_asked(sandbox: Sandbox) -> None:
    heard = Heard()

    assert await sandbox.run(b"ask now", aside=heard.answer) == b"now!"
    answers = await sandbox.run(b"ask_from_threads 20", aside=heard.answer)

    assert set(answers.split()) == {b"%d!" % n for n in range(20)}


async def test_a_soft_timeout_never_cuts_a_question_in_two(sandbox: Sandbox) -> None:
    heard = Heard()
    for _ in range(20):
        asked = int(await sandbox.run(b"ask_until_late", soft=0.02, aside=heard.answer))
        assert asked > 0
        assert await sandbox.run(b"echo on") == b"on"


async def test_a_thread_that_a_handler_has_left_behind_is_not_heard(sandbox: Sandbox, tmp_path: Path) -> None:
    heard = Heard()
    path = tmp_path / "answer"

    assert await sandbox.run(f"leave_a_thread {path}".encode(), aside=heard.answer) == b"left"
    await until(written(path))

    assert path.read_text() == "nobody listens"
    assert heard.words == []
    assert await sandbox.run(b"echo on") == b"on"


async def test_a_question_that_cannot_be_answered_ends_the_child(sandbox: Sandbox) -> None:
    async def fail(words: bytes) -> bytes:
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        await sandbox.run(b"ask now", aside=fail)
    assert await sandbox.run(b"echo on") == b"on"


async def test_a_child_that_is_told_to_end_puts_away_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "put-away"
    sandbox = Sandbox("sandbox_entries:entry", size=1, arguments={"greeting": str(path)})
    await sandbox.run(b"echo on")

    await sandbox.close(grace=0)

    assert path.read_text() == "put away"


async def test_requests_run_side_by_side_in_at_most_size_children() -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=2)

    pids = await asyncio.gather(*(sandbox.run(b"pid") for _ in range(8)))

    assert 1 <= len(set(pids)) <= 2
    assert len(sandbox.pids) <= 2
    await sandbox.close(grace=5)


async def test_what_the_handler_prints_goes_to_the_standard_error_of_the_worker(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await sandbox.run(b"print spoken words") == b"printed"

    out, err = capfd.readouterr()
    assert "spoken words" in err
    assert out == ""


@pytest.mark.parametrize("request_", [b"raise told you", b"system_exit", b"nothing"])
async def test_an_exception_that_escapes_the_entry_is_told_and_the_child_lives_on(
    sandbox: Sandbox, request_: bytes
) -> None:
    before = await sandbox.run(b"pid")

    with pytest.raises(StreamtaskError, match=r"told you|SystemExit: 3|NoneType") as caught:
        await sandbox.run(request_)

    assert not isinstance(caught.value, WorkerLostError)
    assert await sandbox.run(b"pid") == before


# ── deaths ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_", "told"),
    [(b"exit 7", "exited with code 7"), (b"terminate 9", "killed by SIGKILL"), (b"segfault", "killed by SIGSEGV")],
)
async def test_a_child_that_dies_is_lost_by_name_and_replaced(sandbox: Sandbox, request_: bytes, told: str) -> None:
    with pytest.raises(WorkerLostError, match=told):
        await sandbox.run(request_)

    assert await sandbox.run(b"echo again") == b"again"


async def test_an_idle_child_that_was_killed_fails_no_request(sandbox: Sandbox) -> None:
    pid = int(await sandbox.run(b"pid"))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not lives(pid))
    await until(lambda: not Path(f"/proc/{pid}").exists())

    assert await sandbox.run(b"echo again") == b"again"


async def test_a_forked_copy_that_keeps_the_channel_open_hides_no_death(sandbox: Sandbox, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    with pytest.raises(WorkerLostError, match="exited with code 4"):
        await sandbox.run(b"fork " + bytes(pid_file))

    await until(lambda: not lives(int(pid_file.read_text())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_signals_of_a_terminal_do_not_end_a_child(sandbox: Sandbox, number: int) -> None:
    assert await sandbox.run(f"terminate {number}".encode()) == b"alive"


async def test_a_death_in_a_used_child_is_tried_again_in_a_new_one_where_it_has_to_be_certain(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    used = await sandbox.run(b"pid")

    with pytest.raises(WorkerLostError):
        await sandbox.run(f"note_and_exit {pids}".encode(), certain=True)

    first, second = pids.read_text().split()
    assert first == used.decode()
    assert second != first


async def test_a_death_in_a_new_child_is_certain_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    with pytest.raises(WorkerLostError):
        await sandbox.run(f"note_and_exit {pids}".encode(), certain=True)

    assert len(pids.read_text().split()) == 1


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["hang", "spin"])
async def test_a_hard_timeout_kills_the_child_and_frees_its_place(sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    await sandbox.warm()
    pid_file = tmp_path / "pid"

    with pytest.raises(HandlerTimeoutError):
        await sandbox.run(f"{kind} {pid_file}".encode(), hard=1)

    await until(lambda: not lives(int(pid_file.read_text())))
    assert await sandbox.run(b"echo next") == b"next"


async def test_a_hard_timeout_kills_what_the_handler_started(sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.warm()
    pid_file = tmp_path / "pid"

    with pytest.raises(HandlerTimeoutError):
        await sandbox.run(b"child " + bytes(pid_file), hard=3)

    await until(lambda: not lives(int(pid_file.read_text())))


async def test_a_soft_timeout_is_raised_inside_the_handler(sandbox: Sandbox) -> None:
    assert await sandbox.run(b"soft", soft=0.2, hard=30) == b"tidied up"
    assert await sandbox.run(b"soft", soft=0.2, hard=30) == b"tidied up"


async def test_a_soft_timeout_ends_with_its_request(sandbox: Sandbox) -> None:
    for _ in range(50):
        assert await sandbox.run(b"echo quick", soft=0.02) == b"quick"
    with pytest.raises(HandlerTimeoutError):
        await sandbox.run(b"soft", hard=0.5)


async def test_cancelling_kills_the_child_and_frees_its_place(sandbox: Sandbox, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    task = asyncio.create_task(sandbox.run(b"hang " + bytes(pid_file)))
    await until(written(pid_file))

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not lives(int(pid_file.read_text())))
    assert await sandbox.run(b"echo next") == b"next"


# ── start and end ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry", "greeting", "told"),
    [
        ("sandbox_entries:entry", "fail", "no model here"),
        ("sandbox_entries:missing", "", "has no function missing"),
        ("no_such_module:entry", "", "No module named 'no_such_module'"),
    ],
)
async def test_a_child_that_cannot_start_is_an_error_of_the_program(entry: str, greeting: str, told: str) -> None:
    sandbox = Sandbox(entry, size=1, arguments={"greeting": greeting})

    with pytest.raises(ConfigurationError, match=told):
        await sandbox.run(b"echo")

    assert sandbox.pids == frozenset()
    await sandbox.close(grace=0)


async def test_a_child_that_dies_while_it_starts_is_lost() -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=1, arguments={"greeting": "exit"})

    with pytest.raises(WorkerLostError, match="exited with code 9"):
        await sandbox.warm()

    await sandbox.close(grace=0)


async def test_a_start_that_hangs_is_given_up() -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=1, arguments={"greeting": "hang"}, start_timeout=0.5)

    with pytest.raises(ConfigurationError, match=r"longer than 0\.5 s to start"):
        await sandbox.warm()

    await sandbox.close(grace=0)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_child_that_has_too_much_memory_answers_and_is_sent_no_other_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=1, max_memory=150)

    first = [await sandbox.run(b"keep 90") for _ in range(2)]
    second = [await sandbox.run(b"keep 1") for _ in range(2)]

    # The first answer was given with room to spare, the second above the limit.
    assert first[0] == first[1]
    assert second[0] == second[1] != first[0]
    await until(lambda: not lives(int(first[0])))
    [line] = [record for record in caplog.records if record.getMessage() == "sandbox.recycled"]
    assert (line.__dict__["child_pid"], line.__dict__["limit_mib"]) == (int(first[0]), 150)
    assert line.__dict__["memory_mib"] > 150
    await sandbox.close(grace=5)


async def test_children_that_have_too_much_memory_before_the_first_request_are_told_of_once_and_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=2, max_memory=1)

    pids = [set(await asyncio.gather(sandbox.run(b"pid"), sandbox.run(b"pid"))) for _ in range(3)]

    assert pids[0] == pids[1] == pids[2]
    words = [record.getMessage() for record in caplog.records]
    assert words.count("sandbox.needs_more_memory") == 1
    assert "sandbox.recycled" not in words
    await sandbox.close(grace=5)


@pytest.mark.parametrize("entry", ["", "module", ":function", "module:"])
def test_an_entry_that_is_no_entry_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="an entry is named"):
        Sandbox(entry, size=1)


async def test_closing_waits_for_what_runs_and_kills_what_does_not_end(tmp_path: Path) -> None:
    sandbox = Sandbox("sandbox_entries:entry", size=2)
    pid_file = tmp_path / "pid"
    quick = asyncio.create_task(sandbox.run(b"soft", soft=0.3))
    stuck = asyncio.create_task(sandbox.run(b"hang " + bytes(pid_file)))
    await until(written(pid_file))

    await sandbox.close(grace=3)

    assert await quick == b"tidied up"
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        await stuck
    assert not lives(int(pid_file.read_text()))
    with pytest.raises(StreamtaskError, match="closed"):
        await sandbox.run(b"echo")


@pytest.mark.parametrize("request_", ["hang", "spin", "child"])
async def test_children_and_what_they_started_die_with_a_worker_that_is_killed(tmp_path: Path, request_: str) -> None:
    pid_file = tmp_path / "pid"
    program = f"""
        import asyncio, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from streamtask.worker.sandbox import Sandbox
        asyncio.run(Sandbox("sandbox_entries:entry", size=1).run(b"{request_} {pid_file}"))
    """
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(program))
    try:
        await until(written(pid_file))
    finally:
        worker.kill()
        await worker.wait()

    await until(lambda: not lives(int(pid_file.read_text())))


async def test_a_script_is_loaded_beside_its_own_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script"
    script.write_text(
        "count = 0\ndef bump():\n    global count\n    count += 1\nif __name__ == '__main__':\n    exit(5)\n"
    )
    (tmp_path / "script_entry.py").write_text(
        textwrap.dedent("""
            import sys
            from streamtask.worker.sandbox_child import load_main

            def prepare(arguments):
                load_main(arguments["main_path"]).bump()
                assert load_main(arguments["main_path"]).count == 1

            def entry(request):
                import multiprocessing
                main = sys.modules["__mp_main__"]
                return f"{main.bump.__module__} {main.count}".encode()
        """)
    )
    sandbox = Sandbox("script_entry:entry", size=1, arguments={"main_path": str(script)})

    assert await sandbox.run(b"") == b"__mp_main__ 1"

    await sandbox.close(grace=5)


async def test_a_child_is_started_without_a_fork_that_runs_what_others_want_run_before_one(tmp_path: Path) -> None:
    """As OpenBLAS does, which waits there for a thread of this process that multiplies: for ever, now and then."""
    program = f"""
        import asyncio, os, sys
        import uvloop
        sys.path.insert(0, {str(tmp_path)!r})
        from streamtask.worker.sandbox import Sandbox

        forks = []
        os.register_at_fork(before=lambda: forks.append("fork"))

        async def main():
            sandbox = Sandbox("sandbox_entries:entry", size=1)
            print((await sandbox.run(b"echo started")).decode(), forks)
            await sandbox.close(grace=5)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    """
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(program), stdout=asyncio.subprocess.PIPE
    )

    said, _ = await worker.communicate()

    assert said.decode().split("\n")[0] == "started []"
