"""A job that runs as its owner: Django's request gets the user whose primary key is the job's owner."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError

from backjob.errors import JobFailed

__all__ = ["keep_owner", "log_in_owner"]


def log_in_owner(request: Any, owner: str | None) -> None:
    """Make the owner the request's user, loaded anew. Call it before any middleware that reads the user.

    Raises `JobFailed` if there is no such user, or an inactive one, and the database's errors. A site without
    ``django.contrib.auth`` has no users: its actions read ``jobs.owner``.
    """
    if not apps.is_installed("django.contrib.auth"):
        return
    user = _active_user(owner)
    request._cached_user = request._acached_user = request._backjob_owner = user  # noqa: SLF001 - AuthenticationMiddleware's


def keep_owner(request: Any) -> None:
    """Make the owner the user of the view, even if a middleware has found no login, such as RemoteUserMiddleware.

    Leave the owner as a middleware has completed it, such as django-otp's.
    """
    user = getattr(request, "_backjob_owner", None)
    if user is None or getattr(request, "user", None) == user:
        return

    async def current_user() -> Any:
        return user

    request.user, request.auser = user, current_user


def _active_user(owner: str | None) -> Any:
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - models need the app registry

    model: Any = get_user_model()
    try:
        user = model._default_manager.get(pk=owner)  # noqa: SLF001 - as Django's own backends do
    except (model.DoesNotExist, ValueError, TypeError, OverflowError, ValidationError):
        raise JobFailed("not run: there is no user whose primary key is the owner of this job") from None
    if not user.is_active:
        raise JobFailed("not run: the owner of this job is not active")
    return user
