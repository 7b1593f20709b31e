from __future__ import annotations

from typing import Any

import pytest

from streamtask.doctor import DeadFacts, Facts, Finding, GroupFacts, Level, Skipped, Waiting, examine
from streamtask.transport.values import Durability

#: A server on which there is nothing to be found.
SOUND = {
    "role": "master",
    "connected_slaves": "0",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "used_memory": "1000",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "appendfsync": "always",
    "port": "6379",
    "bind": "127.0.0.1 -::1",
    "protected-mode": "yes",
    "requirepass": "",
    "min-replicas-to-write": "0",
    "timeout": "0",
}


def on(version: str = "8.6.3", engine: str = "redis", **settings: str) -> list[Finding]:
    words = SOUND | {name.replace("__", "-"): word for name, word in settings.items()}
    return examine(Facts(engine=engine, version=version, settings=words))


def of(group: GroupFacts | None = None, **facts: Any) -> list[Finding]:
    groups = [group] if group else []
    return examine(Facts(engine="redis", version="8.6.3", settings=SOUND, groups=groups, **facts))


def one(findings: list[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_nothing_is_found_on_a_sound_server() -> None:
    assert on() == []


@pytest.mark.parametrize(
    ("settings", "level", "check", "said"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, Level.WARNING, "maxmemory-policy", "allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": "9999"}, Level.PROBLEM, "maxmemory-policy", "volatile-ttl"),
        ({"maxmemory": "1000", "used_memory": "950"}, Level.PROBLEM, "maxmemory", "95%"),
        ({"aof_enabled": "0"}, Level.PROBLEM, "appendonly", "appendonly is no"),
        ({"appendfsync": "no"}, Level.WARNING, "appendfsync", "power cut"),
        ({"appendfsync": "everysec"}, Level.NOTE, "appendfsync", "last second"),
        ({"aof_last_write_status": "err"}, Level.PROBLEM, "disk", "disk"),
        ({"rdb_last_bgsave_status": "err"}, Level.PROBLEM, "disk", "disk"),
        ({"role": "slave"}, Level.PROBLEM, "role", "replica"),
        ({"connected_slaves": "1"}, Level.PROBLEM, "min-replicas-to-write", "failover"),
        ({"timeout": "300"}, Level.WARNING, "timeout", "300"),
        ({"aof_last_bgrewrite_status": "err"}, Level.WARNING, "disk", "grows"),
        ({"no__appendfsync__on__rewrite": "yes"}, Level.WARNING, "no-appendfsync-on-rewrite", "always"),
        (
            {"client__output__buffer__limit": "normal 1000 0 0 slave 0 0 0"},
            Level.WARNING,
            "client-output-buffer-limit",
            "1000 bytes",
        ),
        ({"maxmemory__clients": "5%"}, Level.NOTE, "maxmemory-clients", "5%"),
        ({"busy__reply__threshold": "10", "lua__time__limit": "10"}, Level.WARNING, "busy-reply-threshold", "10 ms"),
        ({"lua__time__limit": "100"}, Level.WARNING, "lua-time-limit", "100 ms"),
        ({"bind": "* -::*", "protected__mode": "no"}, Level.PROBLEM, "password", "no password"),
        ({"bind": "", "protected__mode": "no"}, Level.PROBLEM, "password", "(*)"),
        ({"bind": "127.0.0.1 10.0.0.1"}, Level.WARNING, "password", "(10.0.0.1)"),
        ({"port": "0", "tls__port": "6380", "tls__auth__clients": "no", "bind": "::"}, Level.WARNING, "password", "::"),
        ({"protected__mode": "no"}, Level.NOTE, "protected-mode", "bind"),
    ],
)
def test_a_setting_that_can_lose_or_delay_events_is_found(
    settings: dict[str, str], level: Level, check: str, said: str
) -> None:
    finding = one(on(**settings))

    assert (finding.level, finding.check) == (level, check)
    assert said in finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"maxmemory": "1000", "used_memory": "500"},
        {"connected_slaves": "2", "min__replicas__to__write": "1"},
        {"client__output__buffer__limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"},
        {"busy__reply__threshold": "5000", "lua__time__limit": "5000"},
        {"busy__reply__threshold": "0"},
        {"bind": "*", "protected__mode": "no", "default__user": "closed"},
        {"bind": "*", "protected__mode": "no", "requirepass": "set", "default__user": "closed"},
        {"bind": "*", "port": "0", "tls__port": "6380", "tls__auth__clients": "yes", "protected__mode": "no"},
        {"bind": "*", "port": "0", "protected__mode": "no"},
    ],
)
def test_a_setting_that_is_as_it_should_be_is_not_found(settings: dict[str, str]) -> None:
    assert on(**settings) == []


def test_waiting_for_more_replicas_than_there_are_or_for_fewer_is_found() -> None:
    def durability(asked: Durability, there: int) -> list[Finding]:
        settings = SOUND | {"connected_slaves": str(there), "min-replicas-to-write": "1"}
        facts = Facts(engine="redis", version="7.0.15", settings=settings, durability=asked)
        return [finding for finding in examine(facts) if finding.check == "durability"]

    assert one(durability(1, 0)).level is Level.PROBLEM
    assert one(durability("replica", 0)).level is Level.PROBLEM
    assert one(durability(1, 2)).level is Level.WARNING
    assert "durability=2" in one(durability(1, 2)).remedy
    assert durability(2, 2) == durability(0, 2) == durability("replica", 2) == []


@pytest.mark.parametrize(
    ("engine", "version", "settings", "level"),
    [
        ("redis", "8.6.3", {}, None),
        ("redis", "8.6.3", {"appendfsync": "everysec"}, Level.WARNING),
        ("redis", "8.6.3", {"appendfsync": "no"}, Level.PROBLEM),
        ("redis", "8.6.3", {"aof_enabled": "0"}, Level.PROBLEM),
        ("redis", "7.0.15", {}, Level.PROBLEM),
        ("valkey", "9.1.2", {}, None),
        ("valkey", "9.1.2", {"appendfsync": "everysec"}, Level.PROBLEM),
    ],
)
def test_waiting_for_a_disk_that_takes_long_or_cannot_be_waited_for_is_found(
    engine: str, version: str, settings: dict[str, str], level: Level | None
) -> None:
    facts = Facts(engine=engine, version=version, settings=SOUND | settings, durability="disk")
    found = [finding for finding in examine(facts) if finding.check == "durability"]

    assert [finding.level for finding in found] == ([] if level is None else [level])


def test_emits_that_are_not_passed_on_are_found() -> None:
    finding = one(of(outboxes={"orders": 100, "bills": 3}))

    assert (finding.level, finding.check) == (Level.WARNING, "orders outbox")
    assert "100 events" in finding.message


@pytest.mark.parametrize(
    ("version", "cves"),
    [
        ("6.2.20", []),
        ("7.2.11", ["CVE-2026-23479"]),
        ("8.2.2", ["CVE-2025-62507", "CVE-2026-23479"]),
        ("8.2.3", ["CVE-2026-23479"]),
        ("8.6.2", ["CVE-2026-23479"]),
        ("8.6.3", []),
        ("unknown", []),
    ],
)
def test_a_version_with_a_known_hole_is_a_warning(version: str, cves: list[str]) -> None:
    findings = on(version=version)

    assert [finding.level for finding in findings] == [Level.WARNING] * len(cves)
    assert all(cve in finding.message for cve, finding in zip(cves, findings, strict=True))


@pytest.mark.parametrize(
    ("engine", "version", "mended"),
    [("redis", "6.2.14", "6.2.20"), ("redis", "7.0.15", "7.2.11"), ("valkey", "8.0.1", "8.0.6")],
)
def test_a_version_whose_scripts_can_break_out_is_noted_with_the_first_that_cannot(
    engine: str, version: str, mended: str
) -> None:
    finding = one(on(version=version, engine=engine))

    assert (finding.level, finding.check) == (Level.NOTE, "version")
    assert "CVE-2025-49844" in finding.message
    assert f"{engine} {mended} or newer" in finding.remedy


def test_versions_of_valkey_are_not_those_of_redis() -> None:
    assert on(version="8.2.1", engine="valkey") == []


def test_what_could_not_be_asked_is_said() -> None:
    words = {name: word for name, word in SOUND.items() if name not in ("appendfsync", "timeout")}

    finding = one(examine(Facts(engine="redis", version="8.6.3", settings=words)))

    assert (finding.level, finding.check) == (Level.WARNING, "permissions")
    assert "appendfsync, timeout" in finding.message


def test_without_config_the_policy_and_the_append_only_file_are_known_from_info() -> None:
    words = {name: word for name, word in SOUND.items() if "_" in name or name == "role"}

    findings = examine(Facts(engine="redis", settings=words | {"maxmemory_policy": "allkeys-lru", "aof_enabled": "0"}))

    assert {finding.check for finding in findings} == {"maxmemory-policy", "appendonly", "permissions"}


def test_an_engine_that_keeps_nothing_is_a_problem_and_has_no_settings_to_look_at() -> None:
    finding = one(examine(Facts(engine="memory", durable=False)))

    assert (finding.level, finding.check) == (Level.PROBLEM, "durability")


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_that_is_gone_and_pins_its_stream_is_a_problem_with_the_command_that_drops_it() -> None:
    group = GroupFacts(stream="orders", group="old service", lag=5, alive=False, last_seen_ms=3 * 86_400_000)

    finding = one(of(group))

    assert finding.level is Level.PROBLEM
    assert "for 3 days" in finding.message
    assert "streamtask groups drop orders 'old service'" in finding.remedy


def test_a_group_without_a_worker_for_a_while_is_a_warning() -> None:
    group = GroupFacts(stream="orders", group="shipping", pending=5, alive=False, last_seen_ms=600_000)

    assert one(of(group)).level is Level.WARNING


def test_a_group_of_which_nothing_is_known_is_taken_for_gone() -> None:
    assert one(of(GroupFacts(stream="s", group="g", lag=None, alive=False, last_seen_ms=None))).level is Level.PROBLEM


@pytest.mark.parametrize(
    "group",
    [
        GroupFacts(stream="s", group="g", lag=5000, pending=5),
        GroupFacts(stream="s", group="g", alive=False, last_seen_ms=9 * 86_400_000),
    ],
)
def test_a_group_that_works_or_has_nothing_to_do_is_not_found(group: GroupFacts) -> None:
    assert of(group) == []


def test_entries_that_wait_for_a_type_that_nobody_handles_are_a_problem() -> None:
    waiting = Waiting(type="OrderPlaced v2", count=3, longest_ms=120_000)

    finding = one(of(GroupFacts(stream="orders", group="shipping", pending=3, waiting=[waiting])))

    assert finding.level is Level.PROBLEM
    assert "3 entries of type OrderPlaced v2 wait, the longest for 2 minutes" in finding.message


def test_skipped_types_come_with_the_command_that_brings_them_back() -> None:
    skipped = [Skipped(type=f"T{n}", first_id=f"{n}-0", count=n) for n in range(1, 8)]

    finding = one(of(GroupFacts(stream="orders", group="shipping", skipped=skipped)))

    assert finding.level is Level.NOTE
    assert "T7 (7)" in finding.message
    assert "and 2 more types" in finding.message
    assert "streamtask replay --stream orders --group shipping --since 7-0" in finding.remedy


def test_dead_letters_are_a_warning_with_their_number_and_the_age_of_the_newest() -> None:
    found = of(
        dead=[DeadFacts(stream="orders", count=3, newest_ms=7_200_000), DeadFacts(stream="b", count=0, newest_ms=0)]
    )

    assert one(found).level is Level.WARNING
    assert "3 dead letters, the newest from 2 hours ago" in one(found).message
    assert one(found).remedy == "streamtask dead list --stream orders"


def test_entries_that_were_trimmed_before_a_group_had_read_them_are_a_problem() -> None:
    finding = one(of(GroupFacts(stream="orders", group="shipping", lag=90, length=20)))

    assert finding.level is Level.PROBLEM
    assert "had not read 70 entries" in finding.message
    assert of(GroupFacts(stream="orders", group="shipping", lag=20, length=20)) == []


def test_the_worst_comes_first() -> None:
    findings = on(version="7.2.11", aof_enabled="0", timeout="5")

    assert [finding.level for finding in findings] == [Level.PROBLEM, Level.WARNING, Level.WARNING]
