"""The template tag: its markup, which a strict Content-Security-Policy allows."""

from __future__ import annotations

import html
import json
import re

import pytest
from django.template import Context, Template
from django.test import Client
from django.urls import set_script_prefix
from django.utils.translation import gettext_lazy, override

from backjob.django import jobs
from backjob.django.models import Job
from backjob.django.testing import immediate

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def job_id() -> str:
    with immediate():
        return jobs.start("see", as_current_user=False)


def test_the_tag_needs_no_inline_script_and_no_inline_style(job_id: str) -> None:
    page = Client().get(f"/progress/{job_id}").content.decode()
    assert re.fullmatch(
        r'<link rel="stylesheet" href="/backjob/progress\.css">'
        r'<script src="/backjob/progress\.js" defer></script>'
        r'<backjob-progress src="/backjob/[^"]+" lang="en-us" data-status="completed">.*</backjob-progress>',
        page,
        re.DOTALL,
    )


def test_without_the_script_the_tag_shows_the_state_and_a_link_to_the_jobs_page(job_id: str) -> None:
    page = Client().get(f"/progress/{job_id}").content.decode()
    [link] = re.findall(r'<a part="show" href="([^"]+)">Show the progress</a>', page)
    assert Client().get(link, headers={"Accept": "text/html"}).status_code == 200
    assert '<span part="state" role="status">Done' in page


def test_the_tag_speaks_the_active_language(job_id: str) -> None:
    with override("de"):
        page = Template("{% load backjob %}{% backjob_progress job_id %}").render(Context({"job_id": job_id}))
    assert ' lang="de" ' in page
    assert "Fertig" in page
    french = Template('{% load backjob %}{% backjob_progress job_id lang="fr" %}').render(Context({"job_id": job_id}))
    assert "Terminé" in french


def test_the_page_of_a_job_that_is_gone_still_renders(job_id: str) -> None:
    jobs.delete(job_id)
    page = Template("{% load backjob %}{% backjob_progress job_id %}").render(Context({"job_id": job_id}))
    assert re.search(r'<backjob-progress [^>]+><a part="show" href="/backjob/[^"]+">Show the progress</a>', page)


def test_the_tags_links_work_for_everyone_who_sees_the_page(job_id: str) -> None:
    page = Client().get(f"/progress/{job_id}").content.decode()
    style, script, state, _ = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert Client().get(style).headers["Content-Type"].startswith("text/css")
    assert Client().get(script).headers["Content-Type"].startswith("text/javascript")
    assert Client().get(state).json()["id"] == job_id
    assert Client().post(f"{state}/cancel").status_code == 403


def test_below_a_mount_the_tags_urls_include_it(job_id: str) -> None:
    set_script_prefix("/shop/")
    try:
        page = Client().get(f"/progress/{job_id}").content.decode()
    finally:
        set_script_prefix("/")
    assert [url[:14] for url in re.findall(r'(?:href|src)="([^"]+)"', page)] == ["/shop/backjob/"] * 4


@pytest.mark.parametrize("prefix", ["//evil.example/", "https://evil.example/", "/\\evil.example/"])
def test_a_forged_prefix_leads_to_no_other_host(job_id: str, prefix: str) -> None:
    set_script_prefix(prefix)
    try:
        page = Client().get(f"/progress/{job_id}", SCRIPT_NAME=prefix.rstrip("/")).content.decode()
    finally:
        set_script_prefix("/")
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(links) == 4
    assert all(re.match(r"/[^/\\]", link) for link in links), links


def test_the_model_links_to_the_status_page_and_refuses_save(job_id: str) -> None:
    job = Job.objects.get()
    assert (str(job), job.get_absolute_url()) == ("/see", f"/backjob/{job_id}")
    with pytest.raises(TypeError, match="backjob"):
        job.save()


def test_the_tag_escapes_every_attribute_of_the_element(job_id: str) -> None:
    source = (
        "{% load backjob %}"
        "{% backjob_progress job_id output=True stream=True label=label on_done_href=href texts=texts %}"
    )
    texts = {"completed": "Fertig \"so\" & <b>'wahr'</b>", "failed": gettext_lazy("Error")}
    page = Template(source).render(Context({"job_id": job_id, "label": "<Export>", "href": "/x?a=1&b", "texts": texts}))
    [element] = re.findall(r"<backjob-progress[^>]+>", page)
    assert ' output stream label="&lt;Export&gt;" on-done-href="/x?a=1&amp;b" texts="{' in element
    assert json.loads(html.unescape(element.partition(' texts="')[2].partition('"')[0])) == {
        "completed": "Fertig \"so\" & <b>'wahr'</b>", "failed": "Error",
    }  # fmt: skip


def test_an_empty_on_done_href_stands_for_the_result(job_id: str) -> None:
    page = Template('{% load backjob %}{% backjob_progress job_id on_done_href="" %}').render(
        Context({"job_id": job_id})
    )
    assert re.search(r"<backjob-progress [^>]* on-done-href lang=", page)
