"""``{% load backjob %}{% backjob_progress job_id %}`` shows a job's progress in a page of the site."""

from __future__ import annotations

from collections.abc import Mapping

from django import template
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import get_language

from backjob.django.site import jobs
from backjob.http.targets import local_path
from backjob.status.embedding import ElementOptions, element

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
    lang: str | None = None,
) -> SafeString:
    """Render the progress element of a job, with its script and style, its state, and a link to its page.

    ``output`` shows what the job prints, and ``cancel`` a button with which everyone who sees the page can cancel the job.
    ``label`` names the bar for screen readers. With ``stream`` the element uses server-sent events if the server has
    them. When the job is done the browser goes to ``on_done_href``, or for ``""`` to the job's result. ``texts`` replaces
    words. ``lang`` is the language of the others; by default the one that Django has activated. Renders nothing while the
    settings of background jobs can't be used.
    """
    engine = jobs.engine_if_usable()
    if engine is None:
        return SafeString("")
    options = ElementOptions(
        output=output,
        cancel=cancel,
        stream=stream,
        label=label,
        on_done_href=on_done_href,
        texts=texts,
        lang=lang or get_language(),
    )
    assets = local_path(reverse("backjob:status", args=["progress.js"])).removesuffix("/progress.js")
    return SafeString(element(engine, job_id, options, assets=assets))


@register.simple_tag
def backjob_status_url(job_id: str, cancel: bool = False) -> str:
    """Return the signed URL of a job's status, or nothing while the settings of background jobs can't be used."""
    return jobs.status_url(job_id, cancel=cancel) if jobs.engine_if_usable() is not None else ""
