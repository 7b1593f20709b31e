"""Code around publishing and around handlers: its order, what it sees, and what it can change."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamtask import (
    App,
    Batch,
    ConfigurationError,
    ConsumeNext,
    Context,
    Depends,
    Event,
    EventRefusedError,
    HandlerTimeoutError,
    Middleware,
    PublishError,
    PublishNext,
    PublishOptions,
    Reject,
    Retry,
    Router,
    TransportError,
)
from tests.chaos.workers import until


class Placed(Event, stream="orders", key="n"):
    n: int
    by: str = ""


class Shipped(Event, stream="shipped"):
    n: int
    by: str = ""


class Named(Middleware):
    """Notes when it is entered and left, around both."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
        self._notes.append(f"publish {self._name}")
        try:
            return await call_next(event, options)
        finally:
            self._notes.append(f"published {self._name}")

    async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
        self._notes.append(f"consume {self._name}")
        try:
            return await call_next(event)
        except BaseException as error:
            self._notes.append(f"{self._name} saw {type(error).__name__}")
            raise
        finally:
            self._notes.append(f"consumed {self._name}")


async def handled(app: App, *events: Event) -> list[str]:
    """Have a worker handle events; what was given up, as reason and error."""
    async with app.worker() as worker:
        await app.publish_many(events or (Placed(n=1),))
        await worker.burst_done()
        letters = app.transport.dead_letters
        assert letters is not None
        return [f"{letter.reason}: {letter.error}" for letter in await letters.page("orders", after="", limit=10)]


async def stored(app: App, stream: str = "orders") -> list[Any]:
    entries = await app.transport.read(stream, after="0", count=1000, wait=0)
    return [app.broker.decode(entry) for entry in entries]


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_is_outermost_and_a_routers_is_within_the_apps_and_around_its_own_handlers_only() -> None:
    notes: list[str] = []
    app = App("shop", broker="memory://", middleware=[Named("one", notes)])
    app.add_middleware(Named("two", notes))
    router = Router(middleware=[Named("three", notes), Named("four", notes)])

    @router.on(Placed)
    async def ship(order: Placed) -> None:
        notes.append("ship")

    @app.on(Shipped)
    async def tell(event: Shipped) -> None:
        notes.append("tell")

    app.include(router)
    async with app:
        await app.publish(Placed(n=1))
        assert notes == ["publish one", "publish two", "published two", "published one"]
        notes.clear()
        async with app.worker() as worker:
            await worker.burst_done()
            names = ("one", "two", "three", "four")
            before = [f"consume {name}" for name in names]
            assert notes == [*before, "ship", *(f"consumed {name}" for name in reversed(names))]
            await app.publish(Shipped(n=1))
            notes.clear()
            await worker.burst_done()
            assert notes == ["consume one", "consume two", "tell", "consumed two", "consumed one"]


async def test_tasks_of_a_router_have_its_middleware_and_sending_them_goes_through_the_apps() -> None:
    notes: list[str] = []
    router = Router(middleware=[Named("router", notes)])

    @router.task
    def double(n: int) -> int:
        return 2 * n

    app = App("shop", broker="memory://", middleware=[Named("app", notes)])
    app.include(router)
    async with app.worker():
        assert await (await double.send(4)).result(5) == 8
    assert notes[:2] == ["publish app", "published app"]
    assert notes[2:4] == ["consume app", "consume router"]


async def test_what_is_no_middleware_is_refused() -> None:
    class Odd(Middleware):
        def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any: ...  # type: ignore[override]

    for odd, said in ((Named, "an object of a subclass of Middleware"), (Odd(), r"Odd\.consume: .* `async def`")):
        with pytest.raises(ConfigurationError, match=said):
            App("shop", broker="memory://", middleware=[odd])  # type: ignore[list-item]
        with pytest.raises(ConfigurationError, match=said):
            Router().add_middleware(odd)  # type: ignore[arg-type]


async def test_middleware_cannot_come_later_around_a_handler_of_batches() -> None:
    app = App("shop", broker="memory://")

    @app.on(batch=Batch(2, wait=1))
    async def ship(orders: list[Placed]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"\.ship: middleware with `consume`"):
        app.add_middleware(Named("late", []))
    app.add_middleware(PublishOnly())
    assert len(app.middleware) == 1


async def test_a_handler_that_has_nothing_around_it_is_called_without_a_step_more() -> None:
    depths: dict[str, int] = {}

    def make(name: str, of_app: list[Middleware], of_router: list[Middleware]) -> App:
        app, router = App(name, broker="memory://", middleware=of_app), Router(middleware=of_router)

        @router.on(Placed)
        async def ship(order: Placed) -> None:
            depths[name] = len(inspect.stack())

        app.include(router)
        return app

    notes: list[str] = []
    publishing, both = [PublishOnly()], [Named("x", notes)]
    apps = [make("bare", [], []), make("publishing", publishing, publishing)]
    for app in [*apps, make("app", both, []), make("router", [], both)]:
        assert await handled(app) == []
    assert depths["bare"] == depths["publishing"] < depths["app"] == depths["router"]
    assert notes.count("consume x") == 2


class PublishOnly(Middleware):
    async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
        return await call_next(event, options)


# ── consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Swallow(Middleware):
    async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
        try:
            return await call_next(event)
        except ValueError as error:
            return Shipped(n=event.n, by=f"{ctx.attempt}: {error}")  # type: ignore[attr-defined]


async def test_middleware_may_swallow_an_error_return_other_events_and_see_those_that_were_emitted() -> None:
    seen: list[int] = []

    class Count(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            returned = await call_next(event)
            seen.append(len(ctx.emits))
            return [returned, Shipped(n=0, by="count")]

    app = App("shop", broker="memory://", middleware=[Count(), Swallow()])

    @app.on(Placed)
    async def ship(order: Placed, ctx: Context) -> Shipped:
        ctx.emit(Shipped(n=5, by="emit"))
        if order.n == 1:
            raise ValueError("it is full")
        return Shipped(n=order.n)

    async with app:
        assert await handled(app, Placed(n=1), Placed(n=2)) == []
        payloads = sorted((each.payload["n"], each.payload["by"]) for each in await stored(app, "shipped"))
    assert payloads == [(0, "count"), (0, "count"), (1, "1: it is full"), (2, ""), (5, "emit"), (5, "emit")]
    assert seen == [1, 1]


async def test_what_middleware_raises_is_the_handlers_failure_and_effects_are_dropped() -> None:
    class Refuse(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            await call_next(event)
            raise Reject("too late")

    app = App("shop", broker="memory://", middleware=[Refuse()])

    @app.on(Placed)
    async def ship(order: Placed) -> Shipped:
        return Shipped(n=order.n)

    async with app:
        assert await handled(app) == ["rejected: Reject: too late"]
        assert await stored(app, "shipped") == []


async def test_middleware_may_repeat_a_call_or_leave_it_out_or_hand_on_another_event() -> None:
    class Repeat(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            assert isinstance(event, Placed)
            if event.n == 0:
                return None
            try:
                return await call_next(event)
            except ValueError:
                return await call_next(event.model_copy(update={"by": "again"}))

    app = App("shop", broker="memory://", middleware=[Repeat()])
    calls: list[tuple[int, str]] = []
    closed: list[str] = []

    async def session() -> AsyncIterator[None]:
        yield
        closed.append("closed")

    @app.on(Placed)
    def ship(order: Placed, db: None = Depends(session)) -> None:
        calls.append((order.n, order.by))
        if not order.by:
            raise ValueError("once")

    assert await handled(app, Placed(n=0), Placed(n=1)) == []
    assert calls == [(1, ""), (1, "again")]
    assert closed == ["closed"]


async def test_middleware_sees_a_timeout_as_the_error_that_it_is() -> None:
    notes: list[str] = []
    app = App("shop", broker="memory://", middleware=[Named("app", notes)])

    @app.on(Placed, timeout=0.05, retry=Retry(max_attempts=1))
    async def ship(order: Placed) -> None:
        await asyncio.sleep(60)

    [said] = await handled(app)
    assert HandlerTimeoutError.__name__ in said
    assert f"app saw {HandlerTimeoutError.__name__}" in notes


async def test_a_cancellation_passes_through_middleware_that_would_swallow_it() -> None:
    class Careless(Middleware):
        async def consume(self, event: Event, ctx: Context, call_next: ConsumeNext) -> Any:
            try:
                return await call_next(event)
            except BaseException:  # noqa: BLE001 - it is careless
                return None

    app = App("shop", broker="memory://", middleware=[Careless()])
    runs: list[int] = []
    interrupted = True

    @app.on(Placed)
    async def ship(order: Placed) -> None:
        runs.append(order.n)
        if interrupted:
            await asyncio.sleep(60)

    async with app:
        await app.publish(Placed(n=1))
        async with app.worker(shutdown_timeout=0.05):
            await until(lambda: runs == [1], 5)
        interrupted = False
        async with app.worker() as worker:
            await worker.burst_done()
    assert runs == [1, 1]


# ── publishing ────────────────────────────────────────────────────────────────────────────────────────────────────


class Stamp(Middleware):
    """Changes event and headers; refuses the seventh."""

    async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
        assert isinstance(event, Placed)
        if event.n == 7:
            raise PermissionError("not the seventh")
        options["headers"] = {**(options.get("headers") or {}), "tenant": "a"}
        return await call_next(event.model_copy(update={"by": "stamp"}), options)


async def test_middleware_may_change_event_headers_and_options_of_all_that_is_published() -> None:
    app = App("shop", broker="memory://", middleware=[Stamp()])
    async with app:
        event_id = await app.publish(Placed(n=1), headers={"x": "y"})
        ids = await app.publish_many([Placed(n=2), Placed(n=3)])

        envelopes = await stored(app)
    assert [each.event_id for each in envelopes] == [event_id, *ids]
    assert [each.payload for each in envelopes] == [{"n": n, "by": "stamp"} for n in (1, 2, 3)]
    assert [each.headers for each in envelopes] == [{"x": "y", "tenant": "a"}] + 2 * [{"tenant": "a"}]


async def test_one_event_that_is_refused_keeps_all_of_publish_many_from_being_sent() -> None:
    app = App("shop", broker="memory://", middleware=[Stamp()])
    async with app:
        with pytest.raises(PermissionError, match="not the seventh"):
            await app.publish_many([Placed(n=n) for n in range(10)])
        with pytest.raises(PermissionError):
            await app.publish(Placed(n=7))
        assert await stored(app) == []


async def test_publish_many_keeps_its_order_and_its_round_trips_however_long_middleware_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(Middleware):
        async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
            assert isinstance(event, Placed)
            for _ in range(event.n % 3):
                await asyncio.sleep(0)
            return await call_next(event, options)

    app = App("shop", broker="memory://", middleware=[Slow()])
    async with app:
        batches: list[int] = []
        publish = app.transport.publish

        async def counted(items: Any) -> Any:
            batches.append(len(items))
            return await publish(items)

        monkeypatch.setattr(app.transport, "publish", counted)
        await app.publish_many([Placed(n=n) for n in range(700)])
        assert [each.payload["n"] for each in await stored(app)] == list(range(700))
    assert batches == [500, 200]


async def test_what_is_not_known_to_be_stored_is_told_by_its_place_and_can_be_repeated_by_middleware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Again(Middleware):
        def __init__(self) -> None:
            self.times = 0

        async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
            for _ in range(self.times):
                try:
                    return await call_next(event, options)
                except PublishError as error:
                    options["event_id"] = error.event_id
            return await call_next(event, options)

    again = Again()
    app = App("shop", broker="memory://", middleware=[again])
    async with app:
        publish, failures = app.transport.publish, 1

        async def failing(items: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise TransportError("away")
            return await publish(items)

        monkeypatch.setattr(app.transport, "publish", failing)
        with pytest.raises(PublishError) as caught:
            await app.publish_many([Placed(n=1), Placed(n=2)])
        assert sorted(caught.value.unsure) == [0, 1]
        assert caught.value.unsure[0] == caught.value.event_id != caught.value.unsure[1]
        assert await stored(app) == []

        failures, again.times = 1, 1
        ids = await app.publish_many([Placed(n=3), Placed(n=4)])
        failures = 1
        ids.append(await app.publish(Placed(n=5)))
        assert [(each.payload["n"], each.event_id) for each in await stored(app)] == list(
            zip((3, 4, 5), ids, strict=True)
        )


async def test_a_repeat_is_told_the_id_of_the_event_that_was_published() -> None:
    class Once(Middleware):
        async def publish(self, event: Event, options: PublishOptions, call_next: PublishNext) -> str:
            assert isinstance(event, Placed)
            return await call_next(event, {**options, "dedup_key": str(event.n)})

    app = App("shop", broker="memory://", middleware=[Once()])
    async with app:
        first = await app.publish(Placed(n=1))
        assert await app.publish(Placed(n=1)) == first
        [again, other] = await app.publish_many([Placed(n=1), Placed(n=2)])
        assert (again, other == first) == (first, False)
        assert [each.event_id for each in await stored(app)] == [first, other]


async def test_an_event_that_is_refused_is_refused_through_middleware_as_without() -> None:
    app = App("shop", broker="memory://", middleware=[Named("app", [])], max_event_bytes=1000)
    async with app:
        with pytest.raises(EventRefusedError):
            await app.publish_many([Placed(n=1), Placed(n=2, by="x" * 1000)])
        assert await stored(app) == []
