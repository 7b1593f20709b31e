"""What a type checker says of middleware and dependencies: `mypy` fails where an expected error does not come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, assert_type

from streamtask import (
    App,
    ConsumeNext,
    Context,
    Depends,
    Event,
    Middleware,
    PublishNext,
    PublishOptions,
    Router,
)


class Placed(Event, stream="orders"):
    """An event."""

    order_id: str


class Session:
    """What handlers are given."""


async def session(ctx: Context) -> AsyncIterator[Session]:
    """Make it."""
    ctx.log.debug("session.opened")
    yield Session()


def model() -> Iterator[str]:
    """Make it once a process."""
    yield "model"


class Both(Middleware):
    """Around publishing and around handlers."""

    async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
        """Give the event id."""
        options["headers"] = {**(options.get("headers") or {}), "tenant": "a"}
        assert_type(await call_next(event, options), str)
        options["dely"] = 3  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportGeneralTypeIssues]
        return await call_next(event)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
        """Give what the handler gives."""
        return await call_next(event)


class Wrong(Middleware):
    """It takes no next call."""

    async def consume(self, event: Event) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take too little."""


app = App("typing", broker="memory://", middleware=[Both()])
router = Router(middleware=[Both()])
App("wrong", middleware=[Both])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
app.add_middleware(Both())
app.dependency_overrides[session] = lambda: Session()  # noqa: PLW0108 - as it is written in tests
Depends(session, scope="forever")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.on(Placed)
async def ship(order: Placed, db: Annotated[Session, Depends(session)]) -> None:
    """Have it in the annotation."""
    assert_type(db, Session)


@router.on(Placed)
def pack(order: Placed, name: str = Depends(model, scope="process")) -> None:
    """Have it as a default."""
    assert_type(name, str)


@app.task
async def add(x: int, db: Session = Depends(session), y: int = 2) -> int:
    """Take a dependency that no sender gives."""
    assert_type(db, Session)
    return x + y


async def right() -> None:
    """A sender leaves it out."""
    assert_type(await (await add.send(1, y=3)).result(), int)
    assert_type(add.delay(1).get(), int)


async def wrong() -> None:
    """What remains is checked."""
    await add.send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await add.send(1, z=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
