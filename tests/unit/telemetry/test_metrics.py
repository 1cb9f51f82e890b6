"""The metrics of jobs: OpenTelemetry's and Prometheus's say the same, and agree with the store."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from backjob import BackJob, InvalidRequest
from backjob.errors import DeliveryRefused, JobContinued, MissingExtra
from backjob.observers import Observers
from backjob.settings import Settings
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.telemetry.counts import OTHER, Counted, JobCounts, add, all_now
from backjob.telemetry.metrics import Metrics
from backjob.telemetry.opentelemetry import OpenTelemetryInstruments
from backjob.telemetry.prometheus import collector
from backjob.transports.sockets import SocketTransport
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from tests.unit.core import KEY, Bench, bench, served


def measured(reader: InMemoryMetricReader) -> Bench:
    world = bench()
    counts = JobCounts.of(lambda: world.engine.store, world.engine.release, world.clock)
    instruments = OpenTelemetryInstruments(counts, MeterProvider([reader]))
    world.engine.observers = world.engine.worker._observers = Observers([Metrics(instruments, counts)], world.clock)
    return world


def values(reader: InMemoryMetricReader) -> dict[str, Any]:
    data: Any = reader.get_metrics_data()
    found: dict[str, Any] = {}
    for metric in (metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics):
        for point in metric.data.data_points:
            name = " ".join([metric.name, *map(str, point.attributes.values())])
            found[name] = point.value if hasattr(point, "value") else (point.count, point.sum)
    return found


def test_every_accepted_job_waits_runs_or_has_ended() -> None:
    reader = InMemoryMetricReader()
    world = measured(reader)
    running = [world.run(queue="exports", retries=1, retry_delay=0) for _ in range(4)]
    world.start()
    world.clock.advance(8)
    for run, outcome in zip(
        running, [Outcome(200), Outcome(404), Outcome(503), Outcome(error=JobContinued())], strict=True
    ):
        world.engine.worker.end(run, outcome)
    world.jobs.cancel(world.start(queue="mail"))
    world.clock.advance(2)
    assert values(reader) == {
        "backjob.jobs.accepted exports": 4,
        "backjob.jobs.accepted default": 1,
        "backjob.jobs.accepted mail": 1,
        "backjob.jobs.ended exports completed": 1,
        "backjob.jobs.ended exports failed": 1,
        "backjob.jobs.ended mail cancelled": 1,
        "backjob.jobs.waiting default": 1,
        "backjob.jobs.waiting exports": 1,
        "backjob.jobs.waiting mail": 0,
        "backjob.jobs.running default": 0,
        "backjob.jobs.running exports": 1,
        "backjob.jobs.running mail": 0,
        "backjob.wait.duration exports": (4, 0),
        "backjob.run.duration exports completed": (1, 8),
        "backjob.run.duration exports failed": (1, 8),
        "backjob.run.duration exports retried": (1, 8),
        "backjob.run.duration exports continued": (1, 8),
    }
    world.step()
    world.receive()
    assert values(reader)["backjob.wait.duration exports"] == (5, 2)


@pytest.mark.parametrize("outcome", [Outcome(200), Outcome(500), Outcome(error=JobContinued())])
def test_a_run_of_a_job_that_was_cancelled_counts_as_cancelled(outcome: Outcome) -> None:
    reader = InMemoryMetricReader()
    world = measured(reader)
    run = world.run()
    world.jobs.cancel(run.job.id)
    world.engine.worker.end(run, outcome)
    runs = [name for name in values(reader) if name.startswith("backjob.run.duration")]
    assert runs == ["backjob.run.duration default cancelled"]


def test_duplicates_are_counted_whether_requests_or_an_engines_messages() -> None:
    reader = InMemoryMetricReader()
    world = measured(reader)
    job_id = world.start()
    world.step()
    opened = world.engine.worker.open(world.transport.sent[-1].delivery.sign())
    assert opened is not None
    world.engine.worker.claim(opened, b"")
    with pytest.raises(Refusal):
        world.engine.worker.claim(opened, b"")
    with pytest.raises(DeliveryRefused, match="runs already"):
        world.jobs.deliver(job_id)
    assert values(reader)["backjob.duplicates.refused"] == 2


def test_jobs_of_queues_that_this_process_has_not_seen_are_counted_together() -> None:
    world = bench()
    for queue in ("a", "b", "default"):
        world.start(queue=queue)
    counts = JobCounts.of(lambda: world.engine.store, world.engine.release, world.clock, ["b"])
    add(counts)
    waiting = [counted for counted in all_now() if counted.state == "waiting"]
    assert waiting == [Counted("waiting", "default", 1), Counted("waiting", "b", 1), Counted("waiting", OTHER, 1)]


def test_the_thread_of_an_exporter_releases_the_store_and_one_that_serves_a_request_does_not() -> None:
    released: list[bool] = []
    world = bench()
    counts = JobCounts.of(lambda: world.engine.store, lambda: released.append(True), world.clock)
    with served():
        counts.now()
    assert released == []
    counts.now()
    assert released == [True]


def test_no_more_than_a_hundred_queues_get_a_label() -> None:
    counts = JobCounts.of(MemoryStore, lambda: None, bench().clock)
    labels = {counts.note(f"of customer {n}") for n in range(1000)}
    assert len(labels) == 100
    assert OTHER in labels


def test_a_store_that_is_down_leaves_the_gauges_out(caplog: pytest.LogCaptureFixture) -> None:
    world = bench()
    world.store.down.add("count")
    counts = JobCounts.of(lambda: world.engine.store, world.engine.release, world.clock)
    add(counts)
    registry = CollectorRegistry()
    registry.register(collector)
    assert [metric.samples for metric in registry.collect()] == [[], []]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("extra", ["opentelemetry", "prometheus"])
def test_the_option_needs_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("backjob.telemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    options: Any = {extra: True}
    with pytest.raises(MissingExtra, match=rf"{extra.upper()} needs .* 'backjob\[{extra}\]'"):
        BackJob(MemoryStore(), SocketTransport, MessageSigner(KEY), **options)


def test_the_settings_are_true_or_false() -> None:
    assert Settings.of({"OPENTELEMETRY": "1", "PROMETHEUS": False}) == Settings(opentelemetry=True, prometheus=False)
    with pytest.raises(InvalidRequest, match="PROMETHEUS"):
        Settings.of({"PROMETHEUS": "sometimes"})
