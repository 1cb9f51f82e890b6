"""The Django scenario site for WSGI servers."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application

from tests.scenarios.apps.config import mounted, prefixed
from tests.scenarios.apps.django_site import set_up

__all__ = ["app", "behind_proxy"]

set_up()
bare = get_wsgi_application()
app = mounted(bare)
behind_proxy = prefixed(bare)
