"""Pyramid within the WSGI middleware: what depends on the framework. All scenarios run on it too."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from backjob import BackJob, Status
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports `cgi` and `pkg_resources`
    config: Any = pytest.importorskip("pyramid.config", reason="pip install -e '.[test]' installs Pyramid")
    from pyramid.httpexceptions import HTTPForbidden
    from pyramid.response import Response


@pytest.fixture
def jobs() -> Iterator[BackJob]:
    with BackJob(MemoryStore(), SocketTransport, MessageSigner("of these tests alone: 6d1f0c7a95b24e38")) as jobs:
        yield jobs


def ends_of(jobs: BackJob, *views: Any, sorry: Any = None) -> list[tuple[Status, str]]:
    """How the jobs end whose actions are these views; ``sorry`` is the view for a `ValueError`."""
    with config.Configurator() as configurator:
        for number, view in enumerate(views):
            configurator.add_route(str(number), f"/{number}")
            configurator.add_view(view, route_name=str(number))
        if sorry is not None:
            configurator.add_exception_view(sorry, context=ValueError)
        app = BackJobMiddleware(configurator.make_wsgi_app(), jobs)
    with immediate(jobs, app):
        ids = [jobs.start(f"/{number}", as_current_user=False) for number in range(len(views))]
    return [(state.status, state.status_text) for state in map(jobs.status, ids)]


def test_a_guarded_view_may_take_the_request_alone_or_with_its_context(jobs: BackJob) -> None:
    class Reports:
        def __init__(self, request: Any) -> None:
            self.request = request

        @jobs.background_only
        def export(self) -> Any:
            return Response(f"exported {self.request.path}", content_type="text/plain")

    @jobs.background_only
    def alone(request: Any) -> Any:
        return Response(f"alone {request.path}", content_type="text/plain")

    @jobs.background_only
    def with_context(context: Any, request: Any) -> Any:
        return Response(f"with context {request.path}", content_type="text/plain")

    assert ends_of(jobs, alone, with_context, lambda request: Reports(request).export()) == [
        (Status.COMPLETED, "alone /0"),
        (Status.COMPLETED, "with context /1"),
        (Status.COMPLETED, "exported /2"),
    ]


def test_an_exception_view_can_note_what_it_turns_into_a_response(jobs: BackJob) -> None:
    def broken(request: Any) -> Any:
        raise ValueError("the disk is full")

    def forbidden(request: Any) -> Any:
        raise HTTPForbidden("not yours")

    def sorry(error: Exception, request: Any) -> Any:
        jobs.note_error(error)
        request.response.status = 500
        return request.response

    (_, noted), (_, refused) = ends_of(jobs, broken, forbidden, sorry=sorry)
    assert noted == "ValueError: the disk is full"
    assert refused.startswith("403 Forbidden")
