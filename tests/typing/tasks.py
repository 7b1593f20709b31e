"""What a type checker says of tasks: `mypy` fails where an error that is expected here does not come."""

from __future__ import annotations

from typing import assert_type

from streamtask import App, Context, Tick

app = App("typing", broker="memory://")


@app.task
def add(x: int, y: int = 2) -> int:
    """Take no context."""
    return x + y


@app.task(timeout=3)
async def fetch(ctx: Context, url: str) -> bytes:
    """Take the context first: who sends it does not."""
    return f"{ctx.attempt} {url}".encode()


@app.cron("0 3 * * *", tz="Europe/Berlin", missed="once", timeout=3)
async def nightly(ctx: Context, tick: Tick | None = None) -> int:
    """Run by itself, and by hand."""
    return ctx.attempt


async def right() -> None:
    """Calls that fit, and what comes of them."""
    assert_type(add(1), int)
    assert_type(await (await add.send(1, y=2)).result(timeout=5), int)
    assert_type(add.delay(1).get(), int)
    assert_type(nightly.delay().get(), int)
    assert_type(await (await fetch.options(delay=60).send("a")).result(), bytes)


async def wrong(ctx: Context) -> None:
    """Calls that do not."""
    add.delay("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add.delay(1, z=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await add.send(1, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch.send(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch.send(ctx, "a")  # type: ignore[arg-type,call-arg]  # pyright: ignore[reportCallIssue]
    await add.options(dedup_key="x").send("y")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.every(30, mised="all")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.every(30, missed="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await nightly.send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.options(dely=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
