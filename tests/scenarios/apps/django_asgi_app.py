"""The Django scenario site for ASGI servers."""

from __future__ import annotations

from typing import Any

from django.core.asgi import get_asgi_application

from tests.scenarios.apps.config import MOUNT
from tests.scenarios.apps.django_site import set_up

__all__ = ["app"]

set_up()
_inner = get_asgi_application()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The application at the root and, as the root path says, under `MOUNT` as well."""
    if scope["type"] == "http" and scope["path"].startswith(MOUNT + "/"):
        scope = {**scope, "root_path": scope.get("root_path", "") + MOUNT}
    await _inner(scope, receive, send)
