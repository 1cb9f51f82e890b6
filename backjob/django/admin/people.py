"""The owners of jobs as people: users of `django.contrib.auth`, if the owners are their primary keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

from backjob.django.models import Job
from backjob.django.site import jobs

_MOST_FOUND: Final = 100


def owners_are_users() -> bool:
    """Return whether the owner of a job is the primary key of a user: not with an ``OWNER`` function of the site."""
    engine = jobs.engine_if_usable()
    return engine is not None and engine.options.owner is None and apps.is_installed("django.contrib.auth")


def users_of(owners: Iterable[str]) -> Mapping[str, Any]:
    """Return the users with these primary keys, in one query. Unknown ones are missing."""
    if not owners_are_users():
        return {}
    model = _model()
    keys = [key for owner in {*owners} if (key := _key(model, owner)) is not None]
    return {str(user.pk): user for user in _users(model).filter(pk__in=keys)} if keys else {}


def owners_named(request: HttpRequest, text: str) -> list[str]:
    """Return the primary keys of users that match this text.

    It searches as the list of users in the admin does, if the visitor may view that; otherwise only the user names.
    """
    if not owners_are_users():
        return []
    model = _model()
    found = _users(model)
    listed = admin.site._registry.get(model)  # noqa: SLF001 - there is no other way to another model's admin
    if listed is not None and listed.has_view_permission(request) and listed.get_search_fields(request):
        found, _ = listed.get_search_results(request, found, text)
    else:
        found = found.filter(**{f"{model.USERNAME_FIELD}__icontains": text})
    return [str(key) for key in found.order_by("pk").values_list("pk", flat=True)[:_MOST_FOUND]]


def show_owners(request: HttpRequest, rows: Iterable[Job]) -> None:
    """Give each row an ``owner_html``: the user's name, with a link if the visitor may view that user."""
    rows = list(rows)
    users = users_of(row.owner for row in rows if row.owner)
    for row in rows:
        if (user := users.get(row.owner)) is not None:
            url = _url_of(request, user)
            row.owner_html = str(user) if url is None else format_html('<a href="{}">{}</a>', url, user)  # type: ignore[attr-defined]


def _url_of(request: HttpRequest, user: Any) -> str | None:
    """Return the URL of a user in the admin, if the visitor may view it."""
    listed = admin.site._registry.get(type(user))  # noqa: SLF001
    if listed is None or not listed.has_view_permission(request, user):
        return None
    options = user._meta  # noqa: SLF001
    try:
        return reverse(f"admin:{options.app_label}_{options.model_name}_change", args=[user.pk])
    except NoReverseMatch:
        return None


def _model() -> Any:
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - models need the app registry

    return get_user_model()


def _users(model: Any) -> Any:
    return model._default_manager.all()  # noqa: SLF001 - as Django's own backends do


def _key(model: Any, owner: str) -> Any:
    """Return an owner as a value of the primary key; None if it can't be one."""
    key = model._meta.pk  # noqa: SLF001
    try:
        value = key.to_python(owner)
        key.run_validators(value)  # also of the range of integers, which a database would report as an error
    except (ValueError, TypeError, OverflowError, ValidationError):
        return None
    return value
