"""`streamtask outbox run`: which outbox is meant."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from click.testing import CliRunner

from streamtask import App, ConfigurationError
from streamtask.cli import outbox
from streamtask.cli.main import streamtask
from streamtask.sql.outbox import TransactionalOutbox
from streamtask.sql.rows import Table


class Outbox(TransactionalOutbox):
    def _table_for_relay(self) -> Table:
        raise NotImplementedError


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("shop_of_outboxes")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.app = App("shop")
    return module


def test_an_outbox_is_named_itself_or_by_the_app_that_has_no_other(shop: ModuleType) -> None:
    shop.outbox, shop.other = Outbox(shop.app), Outbox(App("other"))
    assert outbox._find("shop_of_outboxes:outbox") is shop.outbox
    assert outbox._find("shop_of_outboxes:other") is shop.other
    assert outbox._find("shop_of_outboxes:app") is shop.outbox


def test_an_app_of_several_outboxes_names_none_and_one_is_told_which_there_are(shop: ModuleType) -> None:
    shop.one, shop.two = Outbox(shop.app), Outbox(shop.app)
    with pytest.raises(ConfigurationError, match="it has shop_of_outboxes:one, shop_of_outboxes:two"):
        outbox._find("shop_of_outboxes:app")
    with pytest.raises(ConfigurationError, match="names no outbox: it has shop_of_outboxes:one"):
        outbox._find("shop_of_outboxes:three")


def test_a_module_without_an_outbox_is_an_error_of_usage(shop: ModuleType) -> None:
    result = CliRunner().invoke(streamtask, ["outbox", "run", "-A", "shop_of_outboxes:app"], prog_name="streamtask")
    assert result.exit_code == 2
    assert "names no outbox: there is none in that module" in result.stderr
