"""The Django scenario site for WSGI servers."""

from __future__ import annotations

from importlib import import_module

from django.core.wsgi import get_wsgi_application

from tests.scenarios.apps.config import mounted, prefixed
from tests.scenarios.apps.django_site import set_up

__all__ = ["app", "behind_proxy", "jobs"]

set_up()
jobs = import_module("backjob.django.site").jobs  # needs the settings
bare = get_wsgi_application()
app = mounted(bare)
behind_proxy = prefixed(bare)
