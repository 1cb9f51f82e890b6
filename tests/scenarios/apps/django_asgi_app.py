"""The Django scenario site for ASGI servers."""

from __future__ import annotations

from django.core.asgi import get_asgi_application

from tests.scenarios.apps.django_site import set_up
from tests.scenarios.apps.scopes import mounted, prefixed

__all__ = ["app", "bare", "behind_proxy"]

set_up()
bare = get_asgi_application()
app = mounted(bare)
behind_proxy = prefixed(bare)
