"""Tokens by reference: events say where a token is, and only the bot's own process reads it.

A reference is foreign input. It reaches what the operator has set apart for it, `BotSettings.token_…`, and no other
variable, file or function. No message of an error has a value in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pydantic import SecretStr

from streamtask_contrib.bot.folders import OutsideError, file_in
from streamtask_contrib.bot.settings import BotSettings

#: Bytes of a token's file.
_LARGEST = 64 << 10


class TokenError(Exception):
    """A reference that gives no token. The message says what its operator can do."""


def resolve(reference: str, settings: BotSettings) -> SecretStr | None:
    """The token behind `auth_token_ref`; None where there is no reference. Raises `TokenError`; may block."""
    if not reference:
        return None
    kind, _, name = reference.partition(":")
    read = _KINDS.get(kind)
    if read is None or not name:
        raise TokenError("a reference to a token is env:NAME, file:NAME or call:ANYTHING")
    token = read(name, settings)
    if not token:
        raise TokenError(f"what the reference of the kind {kind} leads to is empty")
    return SecretStr(token)


def _from_environment(name: str, settings: BotSettings) -> str:
    prefix = settings.token_env
    own = str(BotSettings.model_config.get("env_prefix", ""))
    is_setting = name.startswith(own) and name.removeprefix(own).lower() in BotSettings.model_fields
    if not prefix or not name.startswith(prefix) or is_setting:
        raise TokenError(f"env: reads variables that begin with {prefix!r} (STREAMTASK_BOT_TOKEN_ENV), and no setting")
    if name not in os.environ:
        raise TokenError(f"the variable {name} is not set where the bot runs")
    return os.environ[name]


def _from_file(name: str, settings: BotSettings) -> str:
    if settings.token_folder is None:
        raise TokenError("file: needs the folder of the tokens, STREAMTASK_BOT_TOKEN_FOLDER")
    try:
        with file_in(settings.token_folder, name).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise TokenError(f"the token's file has more than {_LARGEST} bytes")
        return content.decode().strip()
    except OutsideError as error:
        raise TokenError(str(error)) from None
    except OSError as error:
        raise TokenError(f"the token's file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TokenError("the token's file is no text") from None


def _from_function(argument: str, settings: BotSettings) -> str:
    if not settings.token_call:
        raise TokenError("call: needs the function that gives tokens, STREAMTASK_BOT_TOKEN_CALL")
    try:
        given = _imported(settings.token_call)(argument)
    except Exception as error:  # noqa: BLE001 - it is the operator's, and what it says may have the token in it
        raise TokenError(f"{settings.token_call} has raised {type(error).__name__}") from None
    token = given.get_secret_value() if isinstance(given, SecretStr) else given
    if not isinstance(token, str):
        raise TokenError(f"{settings.token_call} has to give a str or a SecretStr, and gave {type(token).__name__}")
    return token


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


_KINDS: dict[str, Callable[[str, BotSettings], str]] = {
    "env": _from_environment,
    "file": _from_file,
    "call": _from_function,
}
