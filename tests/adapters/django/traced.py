"""The tests' Django project as `served` has it, traced by OpenTelemetry: ended spans go to the file SITE_SPANS as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from typing_extensions import override

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.adapters.django.settings"

__all__ = ["app", "asgi"]


class _File(SpanExporter):
    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(os.environ["SITE_SPANS"], "a", encoding="utf-8") as file:  # noqa: PTH123 - appends are atomic
            file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(_File()))
trace.set_tracer_provider(provider)
DjangoInstrumentor().instrument()
app = get_wsgi_application()
asgi = get_asgi_application()
