"""Tokens by reference: what the operator has set apart can be had, nothing else, and no error tells a value."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pydantic_settings", reason="the extra `bot` is not installed")

from pydantic import SecretStr
from streamtask_contrib.bot.references import TokenError, resolve
from streamtask_contrib.bot.settings import BotSettings

SECRET = "hunter2-hunter2"
#: Functions as an operator may have them, found as "operators:…".
OPERATORS = SimpleNamespace(
    gives=lambda name: f"{SECRET}-{name}",
    wraps=lambda name: SecretStr(SECRET),
    raises=lambda name: (_ for _ in ()).throw(RuntimeError(f"the vault said {SECRET}")),
    counts=lambda name: 7,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BotSettings:
    monkeypatch.setitem(__import__("sys").modules, "operators", OPERATORS)
    monkeypatch.setenv("STREAMTASK_BOT_TOKEN_MEET", SECRET)
    monkeypatch.setenv("STREAMTASK_BOT_TOKEN_EMPTY", "")
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)
    folder = tmp_path / "tokens"
    (folder / "deep").mkdir(parents=True)
    (folder / "meet").write_text(f"{SECRET}\n")
    (folder / "deep" / "meet").write_text(SECRET)
    (folder / "empty").write_text("\n")
    (folder / "large").write_bytes(b"x" * 70_000)
    (folder / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "outside").write_text(SECRET)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "within").symlink_to(folder / "meet")
    (folder / "circle").symlink_to(folder / "circle")
    return BotSettings(token_folder=folder, token_call="operators:gives")


def test_without_a_reference_there_is_no_token(settings: BotSettings) -> None:
    assert resolve("", settings) is None


@pytest.mark.parametrize(
    ("reference", "token"),
    [
        ("env:STREAMTASK_BOT_TOKEN_MEET", SECRET),
        ("file:meet", SECRET),
        ("file:deep/meet", SECRET),
        ("file:within", SECRET),
        ("call:meet:1", f"{SECRET}-meet:1"),
    ],
)
def test_what_is_allowed_can_be_had(settings: BotSettings, reference: str, token: str) -> None:
    found = resolve(reference, settings)
    assert found is not None
    assert found.get_secret_value() == token
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    "reference",
    [
        "env:DATABASE_PASSWORD",
        "env:",
        "env:STREAMTASK_BOT_TOKEN_MISSING",
        "env:STREAMTASK_BOT_TOKEN_EMPTY",
        # Settings of the bot that only happen to begin so.
        "env:STREAMTASK_BOT_TOKEN_CALL",
        "env:STREAMTASK_BOT_TOKEN_FOLDER",
        "file:../outside",
        "file:link",
        "file:circle",
        "file:deep",
        "file:.",
        "file:missing",
        "file:empty",
        "file:large",
        "file:binary",
        "file:meet\0",
        "vault:meet",
        "hunter2-hunter2",
    ],
)
def test_nothing_else_can_be_had_and_no_error_tells_a_value(
    settings: BotSettings, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CALL", "FOLDER"):
        monkeypatch.setenv(f"STREAMTASK_BOT_TOKEN_{name}", "operators:gives")
    with pytest.raises(TokenError) as refused:
        resolve(reference, settings)
    assert SECRET not in str(refused.value)


def test_an_absolute_path_is_refused(settings: BotSettings, tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="no such file"):
        resolve(f"file:{tmp_path / 'outside'}", settings)


@pytest.mark.parametrize("reference", ["env:STREAMTASK_BOT_TOKEN_MEET", "file:meet", "call:meet"])
def test_what_is_not_set_up_is_refused(settings: BotSettings, reference: str) -> None:
    bare = BotSettings(token_env="", token_folder=None, token_call="")
    with pytest.raises(TokenError, match="STREAMTASK_BOT_TOKEN_"):
        resolve(reference, bare)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("operators:raises", "has raised RuntimeError"),
        ("operators:counts", "has to give a str"),
        ("operators:missing", "has raised AttributeError"),
        ("no_such_package:f", "has raised ModuleNotFoundError"),
    ],
)
def test_a_function_that_fails_is_named_and_its_words_are_not_repeated(
    settings: BotSettings, function: str, message: str
) -> None:
    with pytest.raises(TokenError, match=message) as refused:
        resolve("call:meet", settings.model_copy(update={"token_call": function}))
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_a_function_may_give_a_secret(settings: BotSettings) -> None:
    found = resolve("call:x", settings.model_copy(update={"token_call": "operators:wraps"}))
    assert found is not None
    assert found.get_secret_value() == SECRET
