"""The metrics of jobs in prometheus_client's default registry; `collector` is for a registry of your own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backjob.overriding import override
from backjob.telemetry.counts import all_now
from backjob.telemetry.metrics import ACCEPTED, BUCKETS, ENDED, RAN, REFUSED, RUNNING, WAITED, WAITING

__all__ = ["collector"]


class PrometheusInstruments:
    """Counters and histograms in the default registry, once in a process."""

    def __init__(self) -> None:
        self._accepted = Counter("backjob_jobs_accepted", ACCEPTED, ["queue"])
        self._ended = Counter("backjob_jobs_ended", ENDED, ["queue", "status"])
        self._refused = Counter("backjob_duplicates_refused", REFUSED)
        self._waited = Histogram("backjob_wait_seconds", WAITED, ["queue"], buckets=BUCKETS)
        self._ran = Histogram("backjob_run_seconds", RAN, ["queue", "outcome"], buckets=BUCKETS)

    def accepted(self, queue: str) -> None:
        self._accepted.labels(queue).inc()

    def ended(self, queue: str, status: str) -> None:
        self._ended.labels(queue, status).inc()

    def refused(self) -> None:
        self._refused.inc()

    def waited(self, queue: str, seconds: float) -> None:
        self._waited.labels(queue).observe(seconds)

    def ran(self, queue: str, outcome: str, seconds: float) -> None:
        self._ran.labels(queue, outcome).observe(seconds)


class _StoreCollector(Collector):
    """``backjob_jobs_waiting`` and ``backjob_jobs_running``, counted in the stores when Prometheus asks."""

    @override
    def collect(self) -> Iterator[Metric]:
        families = {
            "waiting": GaugeMetricFamily("backjob_jobs_waiting", WAITING, labels=["queue"]),
            "running": GaugeMetricFamily("backjob_jobs_running", RUNNING, labels=["queue"]),
        }
        for counted in all_now():
            families[counted.state].add_metric([counted.queue], counted.number)
        yield from families.values()

    def describe(self) -> list[Metric]:
        """Return no metrics, so that registering counts nothing."""
        return []


collector: Final = _StoreCollector()
"""Counts the jobs that wait and run, of all applications of this process. The default registry has it already."""

REGISTRY.register(collector)
instruments: Final = PrometheusInstruments()
