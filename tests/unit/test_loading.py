"""Names on the command line become apps and event classes, or an error that says what there is."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from streamtask import App, ConfigurationError, Event
from streamtask.loading import event_class, load_app


class LoadingPlaced(Event, stream="loading"):
    n: int


class LoadingRenamed(LoadingPlaced, type="loading.renamed"):
    pass


class LoadingTwinA(Event, stream="loading", type="loading.twin"):
    pass


class LoadingTwinB(Event, stream="loading", type="loading.twin"):
    pass


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> App:
    module = ModuleType("loading_shop")
    module.app = App("shop", broker="memory://")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "loading_shop", module)
    app: App = module.app
    return app


def test_an_app_is_found_and_given_another_broker(shop: App) -> None:
    assert load_app("loading_shop:app", broker="redis://h/1") is shop
    assert shop.url == "redis://h/1"


@pytest.mark.parametrize("reference", ["", "loading_shop", "loading_shop:", ":app", ".shop:app", "..:app"])
def test_what_is_no_reference_is_refused_with_an_example(reference: str) -> None:
    with pytest.raises(ConfigurationError, match="module:attribute, for example"):
        load_app(reference)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("loading_nowhere:app", "no module 'loading_nowhere'"),
        ("loading_nowhere.events:app", "no module 'loading_nowhere.events'"),
        ("loading_shop:application", "no App called 'application'; it has loading_shop:app"),
    ],
)
def test_an_app_that_is_not_there_is_said_so(shop: App, reference: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_app(reference)


def test_an_event_class_is_found_by_its_type(shop: App) -> None:
    shop.broker.catalog.know(LoadingPlaced)

    assert event_class(shop, "LoadingPlaced") is LoadingPlaced


def test_an_event_class_that_nobody_handles_is_found_where_it_is_defined(shop: App) -> None:
    assert event_class(shop, "loading.renamed") is LoadingRenamed


def test_a_type_that_is_not_there_is_answered_with_those_that_are(shop: App) -> None:
    with pytest.raises(ConfigurationError, match=r"no event type 'LoadingPlased'; there are .*LoadingPlaced"):
        event_class(shop, "LoadingPlased")


def test_two_classes_of_one_type_are_both_named(shop: App) -> None:
    with pytest.raises(ConfigurationError, match=r"LoadingTwinA and .*LoadingTwinB"):
        event_class(shop, "loading.twin")


def test_a_class_that_was_refused_is_none(shop: App) -> None:
    with pytest.raises(ConfigurationError) as refused:

        class LoadingWrong(Event, stream="no stream"):
            pass

    # Whoever holds the error holds the class.
    assert "LoadingWrong" in {cls.__name__ for cls in Event.__subclasses__()}, refused
    assert event_class(shop, "loading.renamed") is LoadingRenamed
    with pytest.raises(ConfigurationError, match="no event type 'LoadingWrong'"):
        event_class(shop, "LoadingWrong")
