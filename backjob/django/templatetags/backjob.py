"""``{% load backjob %}{% backjob_progress job_id %}`` shows a job's progress in a page of the site."""

from __future__ import annotations

import json
from collections.abc import Mapping

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from backjob.django.site import jobs
from backjob.http.targets import local_path

__all__ = ["backjob_progress", "backjob_status_url", "register"]

register = template.Library()


@register.simple_tag
def backjob_progress(
    job_id: str,
    *,
    output: bool = False,
    cancel: bool = False,
    stream: bool = False,
    label: str = "",
    on_done_href: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> SafeString:
    """Render the progress element of a job, with its script and style.

    ``output`` shows what the job prints, and ``cancel`` a button with which everyone who sees the page can cancel the job.
    ``label`` names the bar for screen readers. With ``stream`` the element uses server-sent events if the server has
    them. When the job is done the browser goes to ``on_done_href``, or for ``""`` to the job's result. ``texts`` are
    translations. Renders nothing while the settings of background jobs can't be used.
    """
    if jobs.engine_if_usable() is None:
        return SafeString("")
    flags = [name for name, wanted in (("output", output), ("cancel", cancel), ("stream", stream)) if wanted]
    values = (
        ("label", label or None),
        ("on-done-href", on_done_href),
        ("texts", json.dumps(dict(texts), default=str) if texts else None),
    )
    return format_html(
        '<link rel="stylesheet" href="{}"><script src="{}" defer></script>'
        '<backjob-progress src="{}"{}{}></backjob-progress>',
        local_path(reverse("backjob:status", args=["progress.css"])),
        local_path(reverse("backjob:status", args=["progress.js"])),
        jobs.status_url(job_id, cancel=cancel),
        format_html_join("", " {}", [(name,) for name in flags]),
        format_html_join("", ' {}="{}"', [pair for pair in values if pair[1] is not None]),
    )


@register.simple_tag
def backjob_status_url(job_id: str, cancel: bool = False) -> str:
    """Return the signed URL of a job's status, or nothing while the settings of background jobs can't be used."""
    return jobs.status_url(job_id, cancel=cancel) if jobs.engine_if_usable() is not None else ""
