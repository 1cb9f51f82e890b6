"""The site in a process without a server: requests that a transport passes to its handlers."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

import backjob.testing
from backjob import Status
from backjob.delivery.addresses import Addresses
from backjob.django import jobs
from backjob.django.site import engine
from backjob.django.testing import application, immediate
from backjob.jobs import application_of
from backjob.model import Request
from backjob.testing.transports import PATIENCE, OneDelivery
from backjob.transports.inprocess import InProcessTransport
from tests.adapters.django import views

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(params=[WSGIHandler, ASGIHandler])
def handler(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_the_mount_of_a_request_is_moved_as_a_server_does(handler: Any) -> None:
    with closing(InProcessTransport(handler, base_url="http://testserver")) as transport:
        response = transport.send(OneDelivery(Request("GET", "/shop/see?x=1", mount="/shop"))).result(PATIENCE)
    assert response.status == 200
    [seen] = views.seen
    assert seen["path"] == "/shop/see"


def test_a_job_runs_in_the_process_that_starts_it(handler: Any) -> None:
    with closing(InProcessTransport(handler, base_url="http://testserver")) as transport:
        engine().addresses = Addresses(transport)
        state = jobs.join(jobs.start("/see", as_current_user=False), PATIENCE)
    assert state.status is Status.COMPLETED
    assert engine().addresses.destinations[0].transport is transport


def test_a_worker_finds_the_site_and_its_host() -> None:
    assert isinstance(application_of(jobs), WSGIHandler)
    with override_settings(ALLOWED_HOSTS=["*", ".shop.example"]):
        assert engine().url_of_worker() == "http://shop.example"


def test_astart_runs_the_view_before_it_returns() -> None:
    async def main() -> tuple[Status, object]:
        with immediate():
            job_id = await jobs.astart("/see", as_current_user=False)
            state = await jobs.astatus(job_id)
            return state.status, len(views.seen)

    assert asyncio.run(main()) == (Status.COMPLETED, 1)


def test_the_plugin_takes_the_site_as_an_application() -> None:
    with backjob.testing.immediate(jobs, application()):
        assert jobs.status(jobs.start("/see", as_current_user=False)).status is Status.COMPLETED
