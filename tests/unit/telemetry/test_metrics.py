"""Metrics: counts are exact, labels are bounded, and a scrape says what the table says."""

from __future__ import annotations

import gc
import os
import signal
import threading
import timeit
import weakref
from dataclasses import dataclass

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streamtask.errors import ConfigurationError
from streamtask.telemetry.metrics import BUCKETS, MAX_LABEL_SETS, OTHER, OUTCOMES, TABLE, Metrics
from streamtask.transport.values import GroupStats


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.know(["OrderPlaced", "OrderShipped"])
    return metrics


def scrape(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name -> sorted labels -> value, as a Prometheus server would read it."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@dataclass
class Stats:
    stream: str = "orders"
    group: str = "shipping"
    consumers: int = 2
    pending: int = 3
    lag: int | None = 4
    lag_seconds: float | None = 5.5
    oldest_pending: float | None = 6.5
    dead: int = 7


def test_every_outcome_is_counted_and_scraped(metrics: Metrics) -> None:
    for n, outcome in enumerate(OUTCOMES, start=1):
        for _ in range(n):
            metrics.settled("orders", "shipping", "OrderPlaced", outcome, [0.02])  # type: ignore[arg-type]  # a plain str
    events = scrape(metrics)["streamtask_events_total"]
    for n, outcome in enumerate(OUTCOMES, start=1):
        labels = (("group", "shipping"), ("outcome", outcome), ("stream", "orders"), ("type", "OrderPlaced"))
        assert events[labels] == n


def test_retries_skips_and_duplicates_follow_from_the_outcomes(metrics: Metrics) -> None:
    for outcome in OUTCOMES:
        metrics.settled("orders", "shipping", "OrderPlaced", outcome)  # type: ignore[arg-type]  # a plain str
    metrics.settled("orders", "shipping", "OrderShipped", "skipped")
    assert metrics.total("streamtask_retries_total", type="OrderPlaced") == 3
    assert metrics.total("streamtask_skipped_total", stream="orders", group="shipping") == 2
    assert metrics.total("streamtask_deduplicated_total") == 1


def test_plain_counters_add_up(metrics: Metrics) -> None:
    metrics.fetched("orders", "shipping", 10)
    metrics.fetched("orders", "shipping", 5)
    metrics.reclaimed("orders", "shipping", 2, "dead")
    metrics.reclaimed("orders", "shipping", 3, "due")
    metrics.lease_lost("orders", "shipping")
    metrics.published("orders", 7)
    metrics.publish_failed("orders")
    metrics.transport_error("timeout")
    metrics.gone("orders", "shipping", 4)
    metrics.dead("orders", "shipping", "rejected")
    snapshot = metrics.snapshot()
    assert snapshot["streamtask_fetched_total"] == {("orders", "shipping"): 15}
    assert metrics.total("streamtask_reclaimed_total") == 5
    assert metrics.total("streamtask_reclaimed_total", cause="due") == 3
    assert snapshot["streamtask_lease_lost_total"] == {("orders", "shipping"): 1}
    assert snapshot["streamtask_published_total"] == {("orders",): 7}
    assert snapshot["streamtask_publish_failed_total"] == {("orders",): 1}
    assert snapshot["streamtask_transport_errors_total"] == {("timeout",): 1}
    assert snapshot["streamtask_gone_total"] == {("orders", "shipping"): 4}
    assert snapshot["streamtask_dead_total"] == {("orders", "shipping", "rejected"): 1}


def test_durations_fall_into_buckets_whose_upper_bound_is_included(metrics: Metrics) -> None:
    for seconds in (0.0, 0.001, 0.0011, 3600.0, 3600.1):
        metrics.settled("orders", "shipping", "OrderPlaced", "done", [seconds])
    samples = scrape(metrics)
    buckets = {
        dict(labels)["le"]: value for labels, value in samples["streamtask_handler_duration_seconds_bucket"].items()
    }
    assert (buckets["0.001"], buckets["0.0025"], buckets["3600.0"], buckets["+Inf"]) == (2, 3, 4, 5)
    assert len(buckets) == len(BUCKETS) + 1
    [count] = samples["streamtask_handler_duration_seconds_count"].values()
    assert count == 5 == metrics.total("streamtask_handler_duration_seconds_count", type="OrderPlaced")
    assert metrics.total("streamtask_handler_duration_seconds_sum") == pytest.approx(7200.1021)


def test_what_did_not_run_has_no_duration(metrics: Metrics) -> None:
    metrics.settled("orders", "shipping", "OrderPlaced", "dead")
    metrics.settled("orders", "shipping", "OrderPlaced", "skipped", [0.0])
    metrics.settled("orders", "shipping", "OrderPlaced", "waiting", [0.0])
    assert metrics.total("streamtask_handler_duration_seconds_count") == 0
    assert "streamtask_handler_duration_seconds_count" not in scrape(metrics)


# ── bounded labels ────────────────────────────────────────────────────────────────────────────────────────────────


def test_types_of_foreign_producers_share_one_label(metrics: Metrics) -> None:
    for n in range(5_000):
        metrics.settled("orders", "shipping", f"Foreign{n}", "skipped")
    assert metrics.snapshot()["streamtask_events_total"] == {("orders", "shipping", OTHER, "skipped"): 5_000}


def test_a_type_announced_later_is_named_from_then_on(metrics: Metrics) -> None:
    metrics.settled("orders", "shipping", "Late", "done")
    metrics.know(["Late"])
    metrics.settled("orders", "shipping", "Late", "done")
    assert metrics.total("streamtask_events_total", type="Late") == 1
    assert metrics.total("streamtask_events_total") == 2


def test_no_metric_has_more_than_a_thousand_label_sets_and_no_count_is_lost(metrics: Metrics) -> None:
    for n in range(3_000):
        metrics.settled(f"s{n}", f"g{n}", "OrderPlaced", "retry", [0.1])
        metrics.dead(f"s{n}", "g", f"reason {n}")
        metrics.transport_error(f"kind {n}")
        metrics.set_stats(Stats(stream=f"s{n}"))
    samples = metrics.snapshot()
    assert all(len(values) <= MAX_LABEL_SETS for values in samples.values())
    assert metrics.total("streamtask_retries_total") == metrics.total("streamtask_dead_total") == 3_000
    assert metrics.total("streamtask_handler_duration_seconds_count") == 3_000
    assert samples["streamtask_transport_errors_total"][(OTHER,)] == 3_000 - (MAX_LABEL_SETS - 1)
    assert samples["streamtask_events_total"][(OTHER, OTHER, OTHER, "retry")] > 1_000


def test_labels_leave_without_secrets_bounded_and_readable(metrics: Metrics) -> None:
    metrics.dead("orders", "shipping", "cannot reach redis://worker:canary-77@db:6379/0")
    metrics.dead("orders", "shipping", 'lone \ud800, "quoted"\n\\ ' + "x" * 10_000)
    text = metrics.render().decode()
    assert "canary-77" not in text
    assert len(text) < 10_000
    assert sum(scrape(metrics)["streamtask_dead_total"].values()) == 2


# ── gauges ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stats_are_gauges_and_the_unknown_has_no_sample(metrics: Metrics) -> None:
    metrics.set_stats(Stats())
    metrics.set_stats(Stats(group="billing", lag=None, lag_seconds=None, oldest_pending=None))
    snapshot = metrics.snapshot()
    assert snapshot["streamtask_lag"] == {("orders", "shipping"): 4}
    assert snapshot["streamtask_lag_seconds"] == {("orders", "shipping"): 5.5}
    assert snapshot["streamtask_oldest_pending_seconds"] == {("orders", "shipping"): 6.5}
    assert snapshot["streamtask_pending"] == {("orders", "shipping"): 3, ("orders", "billing"): 3}
    assert snapshot["streamtask_dead_letters"][("orders", "billing")] == 7
    assert snapshot["streamtask_consumers"][("orders", "billing")] == 2
    assert len(scrape(metrics)["streamtask_lag"]) == 1


def test_the_ports_group_stats_are_taken_as_they_are(metrics: Metrics) -> None:
    metrics.set_stats(
        GroupStats(stream="s", group="g", consumers=1, pending=0, lag=9, lag_seconds=None, oldest_pending=None, dead=0)
    )
    assert metrics.total("streamtask_lag", stream="s", group="g") == 9


def test_newer_stats_replace_older_and_cleared_ones_are_absent(metrics: Metrics) -> None:
    metrics.set_stats(Stats(lag=4))
    metrics.set_stats(Stats(lag=1))
    assert metrics.total("streamtask_lag") == 1
    metrics.clear_stats()
    assert metrics.snapshot()["streamtask_lag"] == {}


def test_in_flight_is_asked_for_at_each_scrape(metrics: Metrics) -> None:
    running = {"shipping": 3}
    metrics.watch_in_flight(running.copy)
    metrics.watch_in_flight(second := lambda: {"shipping": 1, "billing": 1})
    assert metrics.snapshot()["streamtask_in_flight"] == {("shipping",): 4, ("billing",): 1}
    metrics.unwatch_in_flight(second)
    running["shipping"] = 0
    assert scrape(metrics)["streamtask_in_flight"] == {(("group", "shipping"),): 0}


# ── the registry ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_and_the_scrape_name_the_same_metrics(metrics: Metrics) -> None:
    text = metrics.render().decode()
    for row in TABLE:
        assert f"# TYPE {row.name} {row.kind}\n" in text
        assert f"# HELP {row.name} {row.meaning}\n" in text
    assert text.count("# TYPE") == len(TABLE)
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_metrics_stay_out_of_the_global_registry(metrics: Metrics) -> None:
    metrics.published("orders")
    assert all(not family.name.startswith("streamtask") for family in REGISTRY.collect())


def test_a_registry_can_be_given_but_not_twice() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry=registry)
    metrics.published("orders", 2)
    assert registry.get_sample_value("streamtask_published_total", {"stream": "orders"}) == 2
    with pytest.raises(ConfigurationError, match="registry"):
        Metrics(registry=registry)


def test_counting_in_several_threads_loses_nothing(metrics: Metrics) -> None:
    together = threading.Barrier(5)

    def count() -> None:
        together.wait()
        for n in range(5_000):
            metrics.settled("orders", "shipping", "OrderPlaced", "done", [0.01])
            metrics.lease_lost("orders", f"g{n % 10}")

    def look() -> None:
        together.wait()
        for _ in range(20):
            metrics.render()

    threads = [threading.Thread(target=target) for target in (count, count, count, count, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.total("streamtask_events_total") == 20_000
    assert metrics.total("streamtask_handler_duration_seconds_count") == 20_000
    assert metrics.total("streamtask_lease_lost_total") == 20_000


# Python warns of a fork beside living threads, which is the very case.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_counts_from_zero_even_if_the_lock_was_held(metrics: Metrics) -> None:
    metrics.published("orders", 5)
    with metrics._lock:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a child that hangs must end, and fail
            signal.alarm(20)
            code = 99
            try:
                metrics.published("orders", 1)
                code = int(metrics.total("streamtask_published_total"))
            finally:
                os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert metrics.total("streamtask_published_total") == 5


def test_metrics_that_nobody_holds_are_freed() -> None:
    gone = weakref.ref(Metrics())
    gc.collect()
    assert gone() is None


def test_counting_is_cheap_enough_for_every_event(metrics: Metrics) -> None:
    # Measured at 0.5 µs; the bound only catches a change of kind.
    def once() -> None:
        metrics.settled("orders", "shipping", "OrderPlaced", "done", [0.02])

    assert min(timeit.repeat(once, number=2_000, repeat=5)) / 2_000 < 50e-6
