"""Background jobs for Django: ``"backjob.django"`` in INSTALLED_APPS, and ``from backjob.django import jobs``."""

from __future__ import annotations

from backjob.errors import MissingExtra

try:
    from backjob.django.site import jobs
except ModuleNotFoundError as error:
    if error.name in ("django", "asgiref"):
        raise MissingExtra("backjob.django", "django") from error
    raise

__all__ = ["jobs"]
