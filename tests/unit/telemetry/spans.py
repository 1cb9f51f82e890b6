"""An application whose spans stay in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from backjob.observers import Observers
from backjob.telemetry.tracing import Tracing
from tests.unit.core import Bench, bench

__all__ = ["Traced", "attributes", "traced"]


@frozen
class Traced:
    """One process of a traced application; ``tracer`` is the application's."""

    world: Bench
    provider: TracerProvider
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The ended spans by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def traced() -> Traced:
    world, provider, exporter = bench(), TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    world.engine.observers = world.engine.worker._observers = Observers([Tracing(provider)], world.clock)
    return Traced(world, provider, exporter)
