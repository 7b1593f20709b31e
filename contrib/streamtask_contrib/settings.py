"""Settings from the environment: how they are read, and those that all apps of this package share."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streamtask import BlobStores, ConfigurationError

_S = TypeVar("_S", bound=BaseSettings)


def from_environment(kind: type[_S]) -> _S:
    """Settings as the environment has them.

    Raises:
        ConfigurationError: some are wrong; the message has the names of their variables, never their values.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        wrong = [
            f"{prefix}{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise ConfigurationError(f"wrong settings in the environment: {'; '.join(wrong)}") from None


class _BlobSettings(BaseSettings):
    """`STREAMTASK_BLOBS_...`: the fields of `BlobStores`, with its defaults."""

    model_config = SettingsConfigDict(env_prefix="STREAMTASK_BLOBS_", env_ignore_empty=True)

    default: str = BlobStores().default
    folder: str | None = None
    #: "s3://one/,s3://other/", or a JSON list.
    remote: Annotated[tuple[str, ...], NoDecode] = ()
    inline: bool = BlobStores().inline
    max_bytes: int = BlobStores().max_bytes
    ttl: float = BlobStores().ttl

    @field_validator("remote", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        if given.lstrip().startswith("["):
            return json.loads(given)
        return [prefix.strip() for prefix in given.split(",") if prefix.strip()]


def blob_stores() -> BlobStores:
    """Where audio is kept, as the environment says."""
    return BlobStores(**from_environment(_BlobSettings).model_dump())
