"""Settings that all apps of this package share, from the environment."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streamtask import BlobStores


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
    return BlobStores(**_BlobSettings().model_dump())
