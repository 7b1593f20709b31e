"""Secrets of the operator's, which settings only refer to: `env:NAME`, `file:/path`, one a line."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from streamtask import ConfigurationError

_PREFIX = "whsec_"
#: Bytes that a key has to have, as Standard Webhooks ask for.
_SHORTEST = 24


def lines(reference: str) -> list[str]:
    """What a reference stands for, without empty lines.

    Raises:
        ConfigurationError: there is nothing; the message names the reference, which is no secret.
    """
    kind, _, name = reference.partition(":")
    try:
        text = os.environ[name] if kind == "env" else Path(name).read_text()
    except (KeyError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{reference} cannot be read: {type(error).__name__}") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigurationError(f"{reference} is empty")
    return found


def signing_keys(reference: str) -> list[bytes]:
    """Keys that sign; several while one takes another's place. Raises as `lines` does, and where one is no key."""
    return [_key(line, reference) for line in lines(reference)]


def _key(line: str, reference: str) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not line.startswith(_PREFIX) or len(key) < _SHORTEST:
        raise ConfigurationError(f'{reference} holds "{_PREFIX}" and at least {_SHORTEST} bytes in base64, a line each')
    return key
