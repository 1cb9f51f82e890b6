"""The observers that the options ask for."""

from __future__ import annotations

from collections.abc import Callable

from backjob.errors import MissingExtra
from backjob.jobs.options import Options
from backjob.observers import Observer, Observers
from backjob.protocols import Store


def observers_of(options: Options, store: Callable[[], Store], release: Callable[[], object]) -> Observers:
    """Return the observers, each imported only for its option. Raises `MissingExtra`.

    ``store()`` keeps the application's jobs; ``release()`` closes what a thread keeps open there.
    """
    found: list[Observer] = []
    if options.opentelemetry or options.prometheus:
        from backjob.telemetry.counts import JobCounts, add  # noqa: PLC0415 - only for these options
        from backjob.telemetry.metrics import Metrics  # noqa: PLC0415

        counts = JobCounts.of(store, release, options.clock, options.queues)
        if options.opentelemetry:
            try:
                from backjob.telemetry.opentelemetry import OpenTelemetryInstruments  # noqa: PLC0415
                from backjob.telemetry.tracing import Tracing  # noqa: PLC0415
            except ImportError as error:
                raise MissingExtra("OPENTELEMETRY", "opentelemetry") from error
            found += [Tracing(), Metrics(OpenTelemetryInstruments(counts), counts)]
        if options.prometheus:
            try:
                from backjob.telemetry.prometheus import instruments  # noqa: PLC0415
            except ImportError as error:
                raise MissingExtra("PROMETHEUS", "prometheus") from error
            add(counts)
            found.append(Metrics(instruments, counts))
    return Observers(found, options.clock)
