"""The tests' Django project as `served` has it, behind a proxy that strips a prefix and names it in X-Forwarded-Prefix."""

from __future__ import annotations

from tests.adapters.django import served
from tests.scenarios.apps import config, scopes

__all__ = ["app", "asgi"]

app = config.prefixed(served.app)
asgi = scopes.prefixed(served.asgi)
