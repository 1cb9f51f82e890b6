"""The Django app: it connects signals and registers checks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.signals import got_request_exception, request_finished, setting_changed
from django.utils.translation import gettext_lazy as _

from backjob.django.connections import close_separate
from backjob.django.engine import database_of
from backjob.django.site import jobs
from backjob.errors import MissingExtra
from backjob.settings import attach_early
from backjob.worker.running import current

_SETTINGS_READ = frozenset({"BACKJOB", "SECRET_KEY", "SECRET_KEY_FALLBACKS", "CACHES", "DATABASES", "ROOT_URLCONF"})


class BackJobConfig(AppConfig):
    """The app ``backjob``."""

    name = "backjob.django"
    label = "backjob"
    verbose_name = _("Background jobs")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, connect the signals' receivers, and have handlers answer each `JobExit`."""
        from backjob.django import checks  # noqa: F401, PLC0415 - it needs the settings
        from backjob.django.exits import answer_exits  # noqa: PLC0415 - likewise

        answer_exits()
        given = getattr(settings, "BACKJOB", None)
        attach_early(given.get("QUEUES") if isinstance(given, Mapping) else None, jobs)

        with suppress(MissingExtra):
            from backjob.django import task_run  # noqa: F401, PLC0415 - likewise

        got_request_exception.connect(_note, dispatch_uid="backjob")
        request_finished.connect(_close_connections, dispatch_uid="backjob")
        setting_changed.connect(_reset, dispatch_uid="backjob")


def _note(**_options: Any) -> None:
    """Note an exception that Django turns into a response, for the job's status text."""
    error = sys.exc_info()[1]
    if error is not None and current.get() is not None:
        jobs.note_error(error)


def _close_connections(**_options: Any) -> None:
    built = jobs.built
    using = None if built is None else database_of(built.store)
    if using is not None:
        close_separate(using)


def _reset(*, setting: str, **_options: Any) -> None:
    if setting in _SETTINGS_READ:
        jobs.reset()
