"""OpenTelemetry's metrics of jobs, with the application's meter provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from backjob.telemetry.counts import JobCounts
from backjob.telemetry.metrics import ACCEPTED, BUCKETS, ENDED, RAN, REFUSED, RUNNING, WAITED, WAITING
from backjob.telemetry.tracing import SCOPE

_QUEUE: Final = "messaging.destination.name"


class OpenTelemetryInstruments:
    """Counters, histograms and gauges of one application."""

    def __init__(self, counts: JobCounts, provider: MeterProvider | None = None) -> None:
        meter = get_meter(SCOPE, meter_provider=provider)
        self._counts = counts
        self._accepted = meter.create_counter("backjob.jobs.accepted", "{job}", ACCEPTED)
        self._ended = meter.create_counter("backjob.jobs.ended", "{job}", ENDED)
        self._refused = meter.create_counter("backjob.duplicates.refused", "{delivery}", REFUSED)
        bounds = [float(bound) for bound in BUCKETS]
        self._waited = meter.create_histogram(
            "backjob.wait.duration", "s", WAITED, explicit_bucket_boundaries_advisory=bounds
        )
        self._ran = meter.create_histogram("backjob.run.duration", "s", RAN, explicit_bucket_boundaries_advisory=bounds)
        for state, meaning in (("waiting", WAITING), ("running", RUNNING)):
            meter.create_observable_gauge(f"backjob.jobs.{state}", [self._observe(state)], "{job}", meaning)

    def _observe(self, state: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> list[Observation]:
            return [Observation(counted.number, {_QUEUE: counted.queue}) for counted in self._counts.now([state])]

        return observe

    def accepted(self, queue: str) -> None:
        self._accepted.add(1, {_QUEUE: queue})

    def ended(self, queue: str, status: str) -> None:
        self._ended.add(1, {_QUEUE: queue, "backjob.status": status})

    def refused(self) -> None:
        self._refused.add(1)

    def waited(self, queue: str, seconds: float) -> None:
        self._waited.record(seconds, {_QUEUE: queue})

    def ran(self, queue: str, outcome: str, seconds: float) -> None:
        self._ran.record(seconds, {_QUEUE: queue, "backjob.outcome": outcome})
