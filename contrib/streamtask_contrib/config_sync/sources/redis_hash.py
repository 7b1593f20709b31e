"""Hashes of a Redis server, one for each service: a field is a key, its value JSON or else text.

    HSET config:whisper model small beam_size 5 languages '["en", "de"]'

The document that is made of it is JSON. A version keeps the fields beside it, as they stand, for the way back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from redis import asyncio as redis
from redis.exceptions import RedisError, WatchError

from streamtask_contrib.config_sync.documents import MAX_BYTES, MAX_VALUES
from streamtask_contrib.config_sync.sources.port import ChangedError, MissingError, Reading, SourceError
from streamtask_contrib.config_sync.versions import Version

#: Seconds that the server may take to answer.
_TIMEOUT = 5.0


class RedisHashSource:
    """Hashes of one server. A hash is read and written as a whole."""

    def __init__(self, url: str, keys: Mapping[str, str], *, every: float = 1.0) -> None:
        """`keys`: service → key of its hash. `every`: seconds between two looks."""
        self._client: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, decode_responses=False
        )
        where = self._client.connection_pool.connection_kwargs
        server = where.get("path") or f"//{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        self._keys = dict(keys)
        self._places = {
            service: f"redis-hash:{server}/{where.get('db') or 0}#{key}" for service, key in self._keys.items()
        }
        self.name = "\n".join(sorted(self._places.values()))
        self.every = every

    async def services(self) -> dict[str, str]:
        """See `Source.services`."""
        return dict(self._places)

    def holds(self, place: str) -> bool:
        """See `Source.holds`."""
        return place in self._places.values()

    async def read(self, service: str) -> Reading:
        """See `Source.read`."""
        key = self._keys[service]
        try:
            if await self._client.hlen(key) > MAX_VALUES:
                raise SourceError(f"the hash {key} has more than {MAX_VALUES} fields")
            fields = await self._client.hgetall(key)
        except RedisError as error:
            raise SourceError(f"the hash {key} cannot be read: {type(error).__name__}") from None
        if not fields:
            raise MissingError(f"there is no hash {key}")
        return _reading(_texts(key, fields))

    def rendered(self, version: Version) -> bytes:
        """See `Source.rendered`."""
        return _written(_fields(version))

    async def write(
        self, service: str, version: Version, instead_of: Reading | None, is_ours: Callable[[], bool]
    ) -> None:
        """See `Source.write`."""
        key, fields = self._keys[service], _fields(version)
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                stands = _texts(key, await pipe.hgetall(key))
                if not is_ours() or (stands or None) != (instead_of and json.loads(instead_of.original or b"null")):
                    raise ChangedError(f"the hash {key} has just been changed")
                pipe.multi()  # type: ignore[no-untyped-call] # redis-py leaves it unannotated
                pipe.delete(key)
                pipe.hset(key, items=[each for field in fields.items() for each in field])
                await pipe.execute()
        except WatchError:
            raise ChangedError(f"the hash {key} has just been changed") from None
        except RedisError as error:
            raise SourceError(f"the hash {key} cannot be written: {type(error).__name__}") from None

    async def close(self) -> None:
        """See `Source.close`."""
        await self._client.aclose()


def _texts(key: str, fields: Mapping[Any, Any]) -> dict[str, str]:
    if sum(len(name) + len(value) for name, value in fields.items()) > MAX_BYTES:
        raise SourceError(f"the hash {key} has more than {MAX_BYTES} bytes")
    try:
        return {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        raise SourceError(f"a field of the hash {key} is not UTF-8") from None


def _reading(fields: dict[str, str]) -> Reading:
    values = {name: _value(text) for name, text in sorted(fields.items())}
    content = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return Reading(content.encode(), "json", original=_written(fields))


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(word: str) -> Any:
    # Python reads `Infinity`, which is a text like any other.
    raise ValueError(word)


def _fields(version: Version) -> dict[str, str]:
    """The fields of a version: those that it was read from or, where it comes from elsewhere, its values."""
    if version.original is not None:
        found: dict[str, str] = json.loads(version.original)
        return found
    return {name: _text(value) for name, value in version.values.items()}


def _text(value: Any) -> str:
    # A text that would be read as something else, such as "5", stands in quotes.
    is_plain = isinstance(value, str) and _value(value) == value
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _written(fields: Mapping[str, str]) -> bytes:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()
