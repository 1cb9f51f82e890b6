"""The tests' Django project for servers: ``app`` for WSGI, ``asgi`` for ASGI."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.adapters.django.settings"

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

__all__ = ["app", "asgi"]

app = get_wsgi_application()
asgi = get_asgi_application()
