"""What a type checker says of workflows: what each comes to, and what is no step."""

from __future__ import annotations

from typing import assert_type

from streamtask import App, Context, FailedCall, Signature, WorkflowHandle, chain, chord, group

app = App("typing", broker="memory://")


@app.task
def add(x: int, y: int = 2) -> int:
    """Give a number."""
    return x + y


@app.task
async def fetch(ctx: Context, url: str) -> bytes:
    """Give bytes."""
    return f"{ctx.attempt} {url}".encode()


@app.task
async def total(numbers: list[int]) -> float:
    """Give another kind of number."""
    return float(sum(numbers))


@app.task
async def tell(failure: FailedCall) -> None:
    """Give nothing."""
    assert_type(failure["step"], str)


async def right() -> None:
    """What they come to."""
    assert_type(add.s(1), Signature[int])
    assert_type(await (await chain(add.s(1), fetch.s()).send()).result(timeout=5), bytes)
    assert_type(chain(add.s(1), add.s(2), add.s(3)).delay().get(), int)
    assert_type(await (add.s(1) | fetch.si("a") | total.s()).send(ttl=60), WorkflowHandle[float])
    assert_type((add.s(1) | group(add.s(1), add.s(2))).delay().get(), list[int])
    assert_type(group(add.s(n) for n in range(3)).delay().get(timeout=1), list[int])
    assert_type(group([add.s(1) | fetch.s()]).delay().get(), list[bytes])
    assert_type(chord(group(add.s(1), add.s(2)), total.s()).delay().get(), float)
    assert_type(chord([add.s(1), add.s(2)], total.s()).on_error(tell.s()).delay().get(), float)
    assert_type(fetch.s("a").options(delay=3).on_error(tell.s()).delay().id, str)


def wrong() -> None:
    """What is no step."""
    chain(add.s(1), 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    add.si("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.si()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add.s(1) | 3  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    add.s(1).options(later=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add.s(1).on_error(add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
