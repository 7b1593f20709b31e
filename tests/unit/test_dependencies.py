"""What is planned for a handler's parameters when it is registered, and what is refused there, by name."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

import fastapi
import pytest

from streamtask import App, ConfigurationError, Context, Depends, Event, Router
from streamtask.dependencies import Call, Given, Plan, plan


class Placed(Event, stream="orders"):
    order_id: str


class Cancelled(Event, stream="orders"):
    order_id: str


class Session:
    pass


def session() -> Session:
    return Session()


async def user(ctx: Context) -> str:
    return ctx.envelope.source


def planned(function: Any, *, own: tuple[str, ...] = ("order",), events: Any = (Placed,)) -> Plan:
    made = plan(function, "shop.ship", events=events, own=own)
    assert made is not None
    return made


def made_for(function: Any, **options: Any) -> dict[str, Any]:
    return {name: each.name if isinstance(each, Call) else each for name, each in planned(function, **options).needs}


# ── what is given ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dependency_stands_in_the_annotation_or_is_the_default() -> None:
    def ship(order: Placed, a: Annotated[Session, Depends(session)], b: str = Depends(user), c: int = 3) -> None: ...

    assert made_for(ship) == {"a": f"{__name__}.session", "b": f"{__name__}.user"}


def test_fastapis_own_depends_is_taken_for_what_it_is() -> None:
    def ship(
        order: Placed,
        a: Annotated[Session, fastapi.Depends(session)],
        b: Session = fastapi.Depends(session, use_cache=False),
    ) -> None: ...

    (_, a), (_, b) = planned(ship).needs
    assert isinstance(a, Call)
    assert isinstance(b, Call)
    assert a.function is b.function is session
    assert a is not b


def test_who_asks_for_the_same_shares_it_unless_it_is_not_cached() -> None:
    def repository(db: Annotated[Session, Depends(session)]) -> Session:
        return db

    def fresh(db: Annotated[Session, Depends(session, use_cache=False)]) -> Session:
        return db

    def ship(
        order: Placed,
        db: Annotated[Session, Depends(session)],
        shared: Annotated[Session, Depends(repository)],
        own: Annotated[Session, Depends(fresh)],
    ) -> None: ...

    (_, db), (_, shared), (_, own) = planned(ship).needs
    assert isinstance(shared, Call)
    assert isinstance(own, Call)
    assert shared.needs == (("db", db),)
    assert own.needs[0][1] is not db


def test_the_event_the_context_and_the_app_are_known_by_their_annotations() -> None:
    def look(one: Placed, some: Placed | Cancelled, *, all_: Event, ctx: Context, app: App, n: int = 1) -> None: ...

    def ship(order: Placed, seen: Annotated[None, Depends(look)]) -> None: ...

    [(_, seen)] = planned(ship).needs
    assert isinstance(seen, Call)
    given = {"one": Given.EVENT, "some": Given.EVENT, "all_": Given.EVENT, "ctx": Given.CONTEXT, "app": Given.APP}
    assert dict(seen.needs) == given


class Checker:
    def __init__(self, limit: int = 3) -> None:
        self.limit = limit

    def __call__(self, order: Placed) -> bool:
        return len(order.order_id) < self.limit

    async def method(self, ctx: Context) -> None: ...


class Stocked:
    def __init__(self, db: Annotated[Session, Depends(session)]) -> None:
        self.db = db


async def opened() -> AsyncIterator[int]:
    yield 1


def begun() -> Iterator[int]:
    yield 1


def scaled(order: Placed, *, by: int) -> int:
    return by


@pytest.mark.parametrize(
    ("dependency", "kind", "needs"),
    [
        (session, "plain", ()),
        (user, "async", ("ctx",)),
        (begun, "generator", ()),
        (opened, "async generator", ()),
        (Stocked, "plain", ("db",)),
        (Checker(5), "plain", ("order",)),
        (Checker(5).method, "async", ("ctx",)),
        (partial(scaled, by=2), "plain", ("order",)),
        (lambda: 3, "plain", ()),
    ],
    ids=["function", "coroutine", "generator", "async generator", "class", "object", "method", "partial", "lambda"],
)
def test_whatever_can_be_called_can_be_a_dependency(dependency: Any, kind: str, needs: tuple[str, ...]) -> None:
    def ship(order: Placed, x: Any = Depends(dependency)) -> None: ...

    [(_, call)] = planned(ship).needs
    assert isinstance(call, Call)
    assert (call.kind, tuple(name for name, _ in call.needs)) == (kind, needs)


def test_depends_without_a_function_calls_the_annotated_class() -> None:
    def ship(order: Placed, stock: Annotated[Stocked, Depends()]) -> None: ...

    assert made_for(ship) == {"stock": f"{__name__}.Stocked"}


def test_a_handler_without_dependencies_has_no_plan() -> None:
    def ship(order: Placed, n: int = 3, *more: int, **others: int) -> None: ...

    assert plan(ship, "shop.ship", events=(Placed,), own=("order",)) is None


def test_overrides_are_planned_with_their_own_parameters() -> None:
    def fake(name: Annotated[str, Depends(user)]) -> str:
        return name

    def ship(order: Placed, db: Annotated[Session, Depends(session)]) -> None: ...

    [(_, call)] = planned(ship).under({session: fake}).needs
    assert isinstance(call, Call)
    assert (call.function, [name for name, _ in call.needs]) == (fake, ["name"])


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_parameter_that_nothing_is_known_for_is_refused_when_the_handler_is_registered() -> None:
    router = Router()

    async def ship(order: Placed, db: Session) -> None: ...

    with pytest.raises(ConfigurationError, match=r"\.ship: nothing is known for its parameter `db: Session`"):
        router.on(Placed)(ship)
    assert router.handlers == []


def test_a_handler_that_takes_no_event_is_refused() -> None:
    async def tidy() -> None: ...

    async def sort(*, order: Placed) -> None: ...

    for function in (tidy, sort):
        with pytest.raises(ConfigurationError, match=rf"\.{function.__name__} takes no event"):
            Router().on(Placed)(function)


def refused(function: Any, events: tuple[type[Event], ...] = (Placed,)) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Router().on(*events)(function)
    return str(caught.value)


def test_a_dependency_that_wants_a_web_request_is_refused_and_told_why() -> None:
    def of_request(request: fastapi.Request, n: int = 1) -> None: ...

    def of_header(token: Annotated[str, fastapi.Header()] = "") -> None: ...

    def of_query(q: str = fastapi.Query("")) -> None: ...

    for dependency, parameter in ((of_request, "request"), (of_header, "token"), (of_query, "q")):

        async def ship(order: Placed, x: Any = Depends(dependency)) -> None: ...

        said = refused(ship)
        assert f"{dependency.__name__} (of " in said
        assert f"wants `{parameter}: " in said
        assert "which comes with a web request" in said


def test_an_event_that_the_handler_does_not_always_get_is_refused() -> None:
    def of_placed(order: Placed) -> None: ...

    async def ship(order: Placed | Cancelled, x: Annotated[None, Depends(of_placed)]) -> None: ...

    assert "wants `order: Placed`, and the handler takes Placed, Cancelled" in refused(ship, ())


def test_what_is_made_once_a_process_is_given_nothing_of_one_call() -> None:
    def of_call(db: Annotated[Session, Depends(session)]) -> None: ...

    def of_app(app: App, config: Annotated[Session, Depends(session, scope="process")]) -> None: ...

    async def ship(order: Placed, x: Any = Depends(user, scope="process")) -> None: ...

    async def pack(order: Placed, x: Any = Depends(of_call, scope="process")) -> None: ...

    async def keep(order: Placed, x: Any = Depends(of_app, scope="process")) -> None: ...

    assert "is made once a process, and its parameter 'ctx' once a delivery" in refused(ship)
    assert "is made once a process, and its parameter 'db' once a delivery" in refused(pack)
    Router().on(Placed)(keep)


def test_what_only_fastapi_heeds_is_refused() -> None:
    async def ship(order: Placed, x: Any = fastapi.Security(session, scopes=["orders"])) -> None: ...

    assert "nobody but FastAPI heeds" in refused(ship)


def test_odd_uses_of_depends_are_refused() -> None:
    async def twice(order: Placed, x: Annotated[Session, Depends(session)] = Depends(session)) -> None: ...

    async def nothing(order: Placed, x=Depends()) -> None: ...

    async def by_place(order: Placed, x: Annotated[Session, Depends(session)], /) -> None: ...

    class Loop:
        def __init__(self, again: Any = None) -> None: ...

    Loop.__init__.__defaults__ = (Depends(Loop),)

    async def endless(order: Placed, x: Annotated[Loop, Depends()]) -> None: ...

    assert "'x' has more than one Depends" in refused(twice)
    assert "'x' names no function" in refused(nothing)
    assert "'x' is given by name" in refused(by_place)
    assert "depends on itself" in refused(endless)


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dependencies_of_a_task_are_no_arguments_of_its_calls() -> None:
    app = App("shop", broker="memory://")

    @app.task
    def add(x: int, db: Session = Depends(session), y: int = 2) -> int:
        return x + y

    assert add.call((1, 5), {}).arguments == {"x": 1, "y": 5}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="'db'"):
        add.call((1,), {"db": Session()})


def test_a_dependency_of_a_task_that_nothing_is_known_for_is_refused() -> None:
    def of_event(order: Placed) -> None: ...

    def add(x: int, seen: None = Depends(of_event)) -> int:
        return x

    with pytest.raises(ConfigurationError, match=r"of_event \(of .*add\) wants `order: Placed`"):
        App("shop", broker="memory://").task(add)
