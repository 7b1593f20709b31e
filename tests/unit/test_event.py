"""Events: what a class may declare, what is refused at publish, and what a consumer makes of a payload."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from streamtask.broker import Broker
from streamtask.errors import ConfigurationError, EventRefusedError, PayloadError, StreamtaskError
from streamtask.event import Event, describe, dump, key_of, load

T = TypeVar("T")


class OrderPlaced(Event, stream="orders", key="order_id"):
    order_id: str
    total: float


class Blob(Event, stream="blobs"):
    data: bytes


class Loose(Event, stream="loose"):
    value: Any = None


class Colour(enum.Enum):
    RED = "red"


class Place(BaseModel):
    city: str


class PlaceWithStreet(Place):
    street: str


class Rich(Event, stream="rich"):
    id: UUID
    at: datetime
    day: date
    clock: time
    wait: timedelta
    price: Decimal
    colour: Colour
    data: bytes
    places: list[Place]
    numbers: dict[int, tuple[float, ...]]
    tags: set[str]
    big: int
    note: str | None = None


def placed(**changes: Any) -> OrderPlaced:
    return OrderPlaced.model_construct(**{"order_id": "1", "total": 9.5, **changes})


# ── what a class declares ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_declares_its_stream_type_version_and_key():
    class Shipped(Event, stream="stream:shipping", type="order.shipped", version="v3", key=("a", "b")):
        a: str
        b: int

    declared = describe(Shipped)
    assert (declared.cls, declared.stream, declared.type, declared.version) == (
        Shipped,
        "shipping",
        "order.shipped",
        "v3",
    )
    assert declared.key == ("a", "b")
    assert declared.versions == {"v3"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        declared.stream = "x"


def test_stream_and_key_are_inherited_type_and_version_are_not():
    class Base(Event, stream="audio", type="base", version="v2", key="chunk_id"):
        chunk_id: str

    class Chunk(Base):
        pass

    class Other(Base, stream="other", key="n"):
        n: int

    assert (describe(Chunk).stream, describe(Chunk).type, describe(Chunk).version) == ("audio", "Chunk", "v1")
    assert describe(Chunk).key == ("chunk_id",)
    assert (describe(Other).stream, describe(Other).key) == ("other", ("n",))


def test_payload_fields_may_be_called_as_the_class_keywords_are():
    class Odd(Event, stream="odd", key=("type", "key")):
        type: str
        key: str
        stream: str
        version: int
        model_name: str

    odd = Odd(type="t", key="k", stream="s", version=3, model_name="m")
    assert load(Odd, dump(odd), "v1") == odd
    assert (describe(Odd).type, describe(Odd).version, describe(Odd).stream) == ("Odd", "v1", "odd")
    assert key_of(odd) == '["t","k"]'


def test_pydantic_settings_stand_beside_ours():
    class Frozen(Event, stream="s", frozen=True):
        a: int

    assert hash(Frozen(a=1))
    assert describe(Frozen).stream == "s"


def test_generic_events_are_types_of_their_own():
    class Box(Event, Generic[T], stream="boxes"):
        value: T

    assert (describe(Box[int]).type, describe(Box[int]).stream) == ("Box[int]", "boxes")
    assert load(Box[int], dump(Box[int](value=3)), "v1").value == 3


def test_a_base_without_a_stream_passes_its_settings_on_and_is_refused_when_it_is_used():
    class Base(Event, key="bot_id"):
        bot_id: str

    class Joined(Base, stream="bots"):
        pass

    assert describe(Joined).key == ("bot_id",)
    for use in (
        describe,
        lambda cls: Broker("shop").outgoing(cls(bot_id="1"), "id", "trace"),
        lambda cls: load(cls, b"{}", "v1"),
        lambda cls: cls.upcast("v0")(dict),
    ):
        with pytest.raises(ConfigurationError, match="Base has no stream"):
            use(Base)
    with pytest.raises(ConfigurationError, match="no stream"):
        describe(Event)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stream": ""}, "a stream has"),
        ({"stream": "a b"}, "a stream has"),
        ({"stream": "a{b}"}, "a stream has"),
        ({"stream": "x" * 201}, "a stream has"),
        ({"stream": "line\n"}, "a stream has"),
        ({"stream": 7}, "a stream has"),
        ({"stream": "s", "key": "nothing"}, "'nothing', which is no field"),
        ({"stream": "s", "key": ("a", "nothing")}, "'nothing', which is no field"),
        ({"stream": "s", "key": ()}, "key is"),
        ({"stream": "s", "key": ["a"]}, "key is"),
        ({"stream": "s", "type": ""}, "type is"),
        ({"stream": "s", "type": "x" * 513}, "type is"),
        ({"stream": "s", "version": "\ud800"}, "version is"),
        ({"stream": "s", "version": 2}, "version is"),
    ],
)
def test_a_wrong_declaration_is_refused_where_the_class_is_made_and_names_it(options, said):
    with pytest.raises(ConfigurationError, match=said) as caught:

        class Wrong(Event, **options):
            a: str

    assert "Wrong" in str(caught.value)


# ── to the wire ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_payload_is_json_with_the_names_of_the_fields():
    assert dump(OrderPlaced(order_id="1", total=9.5)) == b'{"order_id":"1","total":9.5}'


def test_aliases_are_read_and_not_written():
    class Aliased(Event, stream="s"):
        order_id: str = Field(alias="orderId")

    event = Aliased(orderId="1")
    assert dump(event) == b'{"order_id":"1"}'
    assert load(Aliased, dump(event), "v1") == load(Aliased, b'{"orderId":"1"}', "v1") == event


def test_bytes_travel_as_base64_and_both_alphabets_are_read():
    assert json.loads(dump(Blob(data=b"\xff\xef\x00")))["data"] == "_-8A"
    assert load(Blob, b'{"data":"_-8A"}', "v1") == load(Blob, b'{"data":"/+8A"}', "v1") == Blob(data=b"\xff\xef\x00")


texts = st.text(st.characters(exclude_categories=["Cs"]))
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Rich, id=st.uuids(), at=st.datetimes(timezones=st.just(UTC)), day=st.dates(), clock=st.times(),
        wait=st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        colour=st.sampled_from(Colour), data=st.binary(), places=st.lists(st.builds(Place, city=texts), max_size=3),
        numbers=st.dictionaries(st.integers(), st.lists(finite, max_size=3).map(tuple), max_size=3),
        tags=st.sets(texts, max_size=3), big=st.integers(-(10**300), 10**300), note=st.none() | texts,
    )
)  # fmt: skip
def test_what_is_dumped_is_loaded_equal(event):
    assert load(Rich, dump(event), "v1") == event


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(json_like)
def test_an_undeclared_value_comes_back_equal_or_is_refused(value):
    event = Loose(value=value)
    try:
        payload = dump(event)
    except EventRefusedError:
        return
    assert load(Loose, payload, "v1") == event


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (placed(total=math.nan), "total"),
        (placed(total=math.inf), "total"),
        (placed(total="much"), "total"),
        (placed(order_id=7), "order_id"),
        (placed(order_id="\ud800"), "order_id"),
        (placed(order_id=None), "order_id"),
        (Loose(value=math.nan), "value"),
        (Loose(value=[math.inf]), "value"),
        (Loose(value=object()), "value"),
        (Loose(value=(1, 2)), "value"),
        (Loose(value={1: 2}), "value"),
        (Loose(value={1}), "value"),
        (Loose(value=b"x"), "value"),
        (Loose(value=Decimal("1.5")), "value"),
        (Loose(value=datetime(2024, 1, 1, tzinfo=UTC)), "value"),
        (Loose(value=Place(city="Rome")), "value"),
    ],
)
def test_what_cannot_survive_the_wire_is_refused_and_the_field_is_named(event, field):
    with pytest.raises(EventRefusedError, match=f"{type(event).__name__} cannot be published.*{field}") as caught:
        dump(event)
    assert caught.value.event_id == ""
    assert "much" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_subclass_in_a_field_of_its_base_is_refused_for_it_would_lose_its_own_fields():
    class Moved(Event, stream="s"):
        places: list[Place]

    with pytest.raises(EventRefusedError, match="places"):
        dump(Moved(places=[PlaceWithStreet(city="Rome", street="Via")]))


def test_values_that_a_consumer_would_see_changed_are_refused():
    class Hidden(Event, stream="s"):
        password: SecretStr
        left_out: int = Field(0, exclude=True)

    with pytest.raises(EventRefusedError, match="password"):
        dump(Hidden(password="secret"))
    with pytest.raises(EventRefusedError, match="left_out"):
        dump(Hidden.model_construct(password=SecretStr("**********"), left_out=3))


def test_endless_and_very_deep_values_are_refused():
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(220):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(EventRefusedError):
            dump(Loose(value=value))


def test_an_error_of_the_users_own_validator_or_comparison_is_a_refusal_too():
    class Vector:
        __hash__ = None

        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

    class Fussy(Event, stream="s"):
        a: int

        @field_validator("a")
        @classmethod
        def check(cls, value: int) -> int:
            return {1: 1}[value]

    with pytest.raises(EventRefusedError, match="KeyError"):
        dump(Fussy.model_construct(a=2))
    with pytest.raises(PayloadError, match="Fussy v1: KeyError"):
        load(Fussy, b'{"a":2}', "v1")
    with pytest.raises(EventRefusedError):
        dump(Loose.model_construct(value=[Vector()]))


def test_what_is_computed_or_cached_does_not_stand_in_the_way():
    class Computed(Event, stream="s"):
        a: int

        @computed_field
        def double(self) -> int:
            return self.a * 2

        @cached_property
        def cached(self) -> int:
            return self.a * 3

    event = Computed(a=2)
    assert event.cached == 6
    assert json.loads(dump(event)) == {"a": 2, "double": 4}
    assert load(Computed, dump(event), "v1").a == 2


class Plain(Event, stream="plain"):
    """A class of whose events is known without looking that they come back as they are."""

    n: int
    text: str = "x"
    is_so: bool = True
    share: float = 0.5
    note: str | None = None


class Count(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


#: What may stand in a field of a class that is checked when an event is made, and not when it is changed.
anything = (
    st.integers()
    | st.integers(4000, 5000).map(lambda digits: 10**digits)
    | st.text(st.characters())
    | st.text(min_size=4000, max_size=4100)
    | st.sampled_from(["null", Text("a"), Count.ONE, b"a", [1], object()])
    | st.booleans()
    | st.floats()
    | st.none()
)


@given(st.dictionaries(st.sampled_from(sorted(Plain.model_fields)), anything), st.booleans())
@example({"share": math.nan}, False)
@example({"share": -math.inf}, False)
@example({"n": 10**4400}, False)
@example({"text": "\ud800"}, False)
@example({"n": True}, False)
@example({"note": None}, True)
def test_what_is_not_looked_at_would_have_come_back_as_it_is(changes, without_others):
    event = Plain.model_construct(**changes) if without_others else Plain(n=1)
    for name, value in changes.items():
        setattr(event, name, value)

    def dumped() -> bytes | str:
        try:
            return dump(event)
        except EventRefusedError as error:
            return str(error)

    shortly = dumped()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plain, "__event_type__", dataclasses.replace(describe(Plain), plain={}))
        assert dumped() == shortly


def test_an_event_of_plain_fields_is_not_read_back(monkeypatch):
    assert describe(Plain).plain["note"] == {str, type(None)}
    monkeypatch.setattr(Plain, "__pydantic_validator__", None)

    assert json.loads(dump(Plain.model_construct(n=2))) == {
        "n": 2, "text": "x", "is_so": True, "share": 0.5, "note": None,
    }  # fmt: skip


class _Stripped(Event, stream="s", str_strip_whitespace=True):
    text: str


class _Within(Event, stream="s"):
    n: int = Field(ge=0)


class _Called(Event, stream="s"):
    n: int = Field(alias="number")


class _Left(Event, stream="s"):
    n: int = Field(exclude=True)


class _Strict(Event, stream="s"):
    n: int = Field(strict=True)


class _Checked(Event, stream="s"):
    n: int

    @model_validator(mode="after")
    def check(self) -> Self:
        return self


class _Written(Event, stream="s"):
    n: int

    @field_serializer("n")
    def write(self, n: int) -> str:
        return str(n)


class _WrittenWhole(Event, stream="s"):
    n: int

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"n": self.n + 1}


class _Made(Event, stream="s"):
    n: int

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)


class _Begun(Event, stream="s"):
    n: int
    _began: float = 0.0

    def model_post_init(self, context: Any) -> None:
        self.n += 1


class _Later(Event, stream="s"):
    n: NotYet  # noqa: F821 - it is what is tried


class _Listed(Event, stream="s"):
    numbers: list[int]


@pytest.mark.parametrize(
    "cls",
    [
        _Stripped, _Within, _Called, _Left, _Strict, _Checked, _Written, _WrittenWhole, _Made, _Begun, _Later, _Listed,
        Rich, Loose,
    ],
)  # fmt: skip
def test_a_class_that_has_more_than_plain_fields_is_looked_at(cls):
    assert describe(cls).plain == {}


def test_extra_fields_travel_where_a_class_allows_them():
    class Open(Event, stream="s", extra="allow"):
        a: int

    assert load(Open, dump(Open(a=1, more="x")), "v1").more == "x"
    with pytest.raises(EventRefusedError, match="more"):
        dump(Open(a=1, more=(1,)))


# ── the key ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_key_of_one_text_field_is_that_text():
    assert key_of(OrderPlaced(order_id="a:b", total=1)) == "a:b"


def test_an_event_without_an_identity_has_no_key():
    class Maybe(Event, stream="s", key=("a", "b")):
        a: str | None
        b: int

    assert key_of(Blob(data=b"")) is None
    assert key_of(Maybe(a=None, b=1)) is None


@given(st.lists(st.tuples(texts, texts | st.integers()), unique_by=lambda pair: tuple(map(repr, pair)), max_size=6))
def test_different_keys_of_several_fields_never_give_one_text(pairs):
    class Pair(Event, stream="s", key=("a", "b")):
        a: str
        b: str | int

    assert len({key_of(Pair(a=a, b=b)) for a, b in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [
        (int, 17, "17"),
        (bool, True, "true"),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour, Colour.RED, "red"),
        (bytes, b"\xff", "_w=="),
        (date, date(2024, 1, 2), "2024-01-02"),
        (Place, Place(city="Rome"), '{"city":"Rome"}'),
    ],
)
def test_a_key_of_another_type_is_what_json_makes_of_it(kind, value, key):
    class Keyed(Event, stream="s", key="k"):
        k: kind

    assert key_of(Keyed(k=value)) == key


def test_a_key_that_cannot_be_written_is_refused():
    class Keyed(Event, stream="s", key=("a", "b")):
        a: Any
        b: int

    for value in (object(), "\ud800"):
        with pytest.raises(EventRefusedError, match="Keyed"):
            key_of(Keyed(a=value, b=1))


# ── from the wire ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_payload_fields_are_ignored():
    assert load(OrderPlaced, b'{"order_id":"1","total":9.5,"new":1}', "v1") == OrderPlaced(order_id="1", total=9.5)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"order_id":"1"}', "OrderPlaced v1: total: Field required"),
        (b'{"order_id":1,"total":"x"}', "order_id: .*; total: "),
        (b'{"order_id":"1","total":1e999}', "total: .*finite"),
        (b'{"order_id":"1","total":' + b"9" * 5000 + b"}", "OrderPlaced"),
        (b'{"order_id":"1","total":' + b"[" * 100_000, "Invalid JSON"),
        (b"[]", "OrderPlaced v1"),
        (b"null", "OrderPlaced v1"),
        (b"", "Invalid JSON"),
        (b'{"order_id":"\xff","total":1}', "Invalid JSON"),
        (b'{"order_id":"\\ud800","total":1}', "Invalid JSON"),
    ],
)
def test_a_payload_that_does_not_fit_names_the_fields_and_not_the_input(payload, said):
    with pytest.raises(PayloadError, match=said) as caught:
        load(OrderPlaced, payload, "v1")
    assert len(str(caught.value)) < 400


def test_the_input_is_neither_in_the_error_nor_in_its_cause():
    with pytest.raises(PayloadError) as caught:
        load(OrderPlaced, b'{"order_id":["secret"],"total":1}', "v1")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_many_problems_are_counted_and_long_names_are_cut():
    class Numbers(Event, stream="s"):
        numbers: dict[str, int]

    def message(numbers: dict[str, str]) -> str:
        with pytest.raises(PayloadError) as caught:
            load(Numbers, json.dumps({"numbers": numbers}).encode(), "v1")
        return str(caught.value)

    assert "and 15 more" in message({str(number): "x" for number in range(20)})
    assert "5000 problems" in message({str(number): "x" for number in range(5000)})
    assert len(message({"k" * 100_000: "x"})) < 400


@given(
    st.binary() | json_like.map(lambda value: json.dumps(value, default=str).encode()),
    st.sampled_from(["v1", "v0", "", "\x00"]),
)
def test_loading_is_total(payload, version):
    for cls in (OrderPlaced, Blob, Loose, Rich):
        with contextlib.suppress(PayloadError):
            assert isinstance(load(cls, payload, version), cls)


# ── older versions ────────────────────────────────────────────────────────────────────────────────────────────────


def versioned() -> type[Event]:
    class Renamed(Event, stream="s", version="v11"):
        name: str
        trail: list[str]
        data: bytes = b""

    @Renamed.upcast("v10")
    def tenth(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "trail": [*payload["trail"], "v10"]}

    @Renamed.upcast("v1")
    def first(payload: dict[str, Any]) -> dict[str, Any]:
        return {"full_name": payload["n"], "trail": ["v1"]}

    @Renamed.upcast("v2")
    def second(payload: dict[str, Any]) -> dict[str, Any]:
        return {"name": payload["full_name"], "trail": [*payload.get("trail", []), "v2"], "data": b"\xff\xef"}

    return Renamed


def test_an_older_payload_goes_through_every_version_after_it_in_natural_order():
    cls = versioned()

    assert describe(cls).versions == {"v1", "v2", "v10", "v11"}
    assert load(cls, b'{"n":"Ann"}', "v1").trail == ["v1", "v2", "v10"]
    assert load(cls, b'{"full_name":"Ann"}', "v2").trail == ["v2", "v10"]
    assert load(cls, b'{"name":"Ann","trail":[]}', "v10").trail == ["v10"]
    assert load(cls, b'{"name":"Ann","trail":[]}', "v11").trail == []
    assert load(cls, b'{"n":"Ann"}', "v1").data == b"\xff\xef"


def test_an_unknown_version_is_an_error_that_tells_the_known_ones():
    with pytest.raises(PayloadError, match=r"'?v12'? is unknown; known: v1, v2, v10, v11"):
        load(versioned(), b"{}", "v12")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{}", "upcaster .*first: KeyError"),
        (b"[]", "not an object"),
        (b"{", "ValueError"),
        (b'{"n":NaN}', "ValueError"),
    ],
)
def test_an_upcaster_that_cannot_do_its_work_is_a_payload_error(payload, said):
    with pytest.raises(PayloadError, match=said):
        load(versioned(), payload, "v1")


@pytest.mark.parametrize("result", [None, [], "x", {"a": object()}, {"a": math.nan}, {"a": "\ud800"}, {}])
def test_an_upcaster_that_answers_nonsense_is_a_payload_error(result):
    class Simple(Event, stream="s", version="v2"):
        a: float

    Simple.upcast("v1")(lambda payload: result)
    with pytest.raises(PayloadError, match="Simple v1"):
        load(Simple, b"{}", "v1")


def test_two_upcasters_for_one_version_or_one_for_the_current_are_refused():
    class Twice(Event, stream="s", version="v2"):
        a: int

    @Twice.upcast("v1")
    def one(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    with pytest.raises(ConfigurationError, match=r"one.*other"):

        @Twice.upcast("v1")
        def other(payload: dict[str, Any]) -> dict[str, Any]:
            return payload

    with pytest.raises(ConfigurationError, match="current version"):
        Twice.upcast("v2")(one)
    with pytest.raises(ConfigurationError, match="version is"):
        Twice.upcast("")(one)


def test_upcasters_are_not_inherited():
    class Child(versioned()):
        pass

    assert describe(Child).versions == {"v1"}


def test_every_error_of_this_module_is_one_of_ours():
    assert all(issubclass(error, StreamtaskError) for error in (ConfigurationError, EventRefusedError, PayloadError))
