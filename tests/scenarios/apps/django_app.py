"""The Django scenario site for WSGI servers."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application

from tests.scenarios.apps.config import mounted
from tests.scenarios.apps.django_site import set_up

__all__ = ["app"]

set_up()
app = mounted(get_wsgi_application())
