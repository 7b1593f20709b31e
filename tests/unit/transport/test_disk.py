"""Who is believed that its disk has an event. The versions are those whose answers were watched, see the module."""

from __future__ import annotations

import pytest

from streamtask.transport.disk import unfit_for_disk

ALWAYS = {"aof_enabled": "1", "appendfsync": "always"}
EVERY_SECOND = ALWAYS | {"appendfsync": "everysec"}
UNKNOWN = {"aof_enabled": "1"}


@pytest.mark.parametrize(
    ("engine", "version", "settings"),
    [
        ("redis", "7.2.0", ALWAYS),
        ("redis", "8.2.3", ALWAYS),
        ("valkey", "8.0.1", ALWAYS),
        ("redis", "8.2.3", EVERY_SECOND),
        ("redis", "8.0.0", EVERY_SECOND),
        ("redis", "10.0.0", EVERY_SECOND),
        ("redis", "8.2.3", UNKNOWN),
    ],
)
def test_a_server_that_tells_the_truth_is_fit(engine: str, version: str, settings: dict[str, str]) -> None:
    assert unfit_for_disk(engine, version, settings) is None


@pytest.mark.parametrize(
    ("engine", "version", "settings", "remedy"),
    [
        ("redis", "6.2.14", ALWAYS, "Redis 7.2"),
        ("redis", "7.0.15", ALWAYS, "Redis 7.2"),
        ("redis", "8.2.3", ALWAYS | {"aof_enabled": "0"}, "appendonly yes"),
        ("valkey", "9.1.2", ALWAYS | {"aof_enabled": "0"}, "appendonly yes"),
        ("redis", "8.2.3", ALWAYS | {"appendfsync": "no"}, "appendfsync always"),
        ("valkey", "9.1.2", ALWAYS | {"appendfsync": "no"}, "appendfsync always"),
        ("redis", "7.4.9", EVERY_SECOND, "appendfsync always"),
        ("valkey", "8.0.1", EVERY_SECOND, "appendfsync always"),
        ("valkey", "9.1.2", EVERY_SECOND, "appendfsync always"),
        ("valkey", "9.1.2", UNKNOWN, "+config|get"),
        ("redis", "7.2.0", UNKNOWN, "+config|get"),
    ],
)
def test_a_server_that_cannot_say_so_or_says_so_too_early_is_not_and_there_is_a_remedy(
    engine: str, version: str, settings: dict[str, str], remedy: str
) -> None:
    unfit = unfit_for_disk(engine, version, settings)

    assert unfit is not None
    assert remedy in unfit.remedy
