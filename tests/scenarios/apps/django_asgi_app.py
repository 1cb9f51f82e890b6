"""The Django scenario site for ASGI servers."""

from __future__ import annotations

from django.core.asgi import get_asgi_application

from tests.scenarios.apps.django_site import set_up
from tests.scenarios.apps.scopes import mounted

__all__ = ["app", "bare"]

set_up()
bare = get_asgi_application()
app = mounted(bare)
