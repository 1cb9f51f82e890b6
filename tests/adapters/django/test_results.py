"""What a Django view returns, as the result of its job; files in Django's storages."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.translation import gettext_lazy

from backjob import JobState, Status
from backjob.django import jobs
from backjob.django.files import StorageFiles
from backjob.django.site import engine
from backjob.django.testing import immediate
from backjob.files import DirectoryFiles, MemoryFiles
from backjob.protocols import Files
from backjob.testing import FilesContract

pytestmark = pytest.mark.usefixtures("database")

view: Any = None


def action(request: HttpRequest) -> Any:
    return view(request)


urlpatterns = [path("export", action, name="export"), path("backjob/", include("backjob.django.urls"))]


@pytest.fixture(autouse=True)
def _site(tmp_path: Path) -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, MEDIA_ROOT=str(tmp_path / "media")):
        jobs.reset()
        yield
        jobs.reset()


def run(made: Any) -> JobState:
    global view  # noqa: PLW0603 - the URLconf is a module
    view = made
    with immediate():
        return jobs.status(jobs.start("export", as_current_user=False))


def output(state: JobState) -> str:
    return jobs.output(state.id).text


def test_json_is_the_result() -> None:
    assert run(lambda _: JsonResponse({"rows": 50})).result == {"rows": 50}


def test_a_text_is_output_also_as_html() -> None:
    for content_type in ("text/html", "text/plain"):
        state = run(lambda _, kind=content_type: HttpResponse("Exported 50 rows", content_type=kind))
        assert (output(state), state.status_text) == ("Exported 50 rows", "Exported 50 rows")
    assert output(run(lambda _: HttpResponse("<p>Exported</p>"))) == ""


def test_a_streamed_text_is_output() -> None:
    assert output(run(lambda _: StreamingHttpResponse(iter(["<p>1", "<p>2"])))) == "<p>1<p>2"


def test_a_file_response_is_the_jobs_file_and_is_downloaded(tmp_path: Path) -> None:
    state = run(lambda _: FileResponse(io.BytesIO(b"a,b\n"), as_attachment=True, filename="Übersicht.csv"))
    assert state.file == {"name": "Übersicht.csv", "type": "text/csv", "size": 4}
    [kept] = (tmp_path / "media" / "backjob" / state.id).iterdir()
    assert kept.read_bytes() == b"a,b\n"
    url = f"{jobs.status_url(state.id)}/file"
    response: Any = Client().get(url, headers={"accept-encoding": "gzip"})
    assert (response.status_code, response["Content-Length"]) == (200, "4")
    assert b"".join(response.streaming_content) == b"a,b\n"
    response.close()
    assert "filename*=UTF-8''%C3%9Cbersicht.csv" in response["Content-Disposition"]
    assert Client().head(url)["Content-Length"] == "4"
    assert Client().get(f"/backjob/{state.id}/file").status_code == 404


def test_a_file_is_sent_from_an_event_loop_too() -> None:
    state = run(lambda _: HttpResponse(b"a,b\n" * 50_000, content_type="text/csv"))
    assert state.file == {"name": "export.csv", "type": "text/csv", "size": 200_000}

    async def download() -> bytes:
        response: Any = await AsyncClient().get(f"{jobs.status_url(state.id)}/file")
        return b"".join([chunk async for chunk in response.streaming_content])

    assert asyncio.run(download()) == b"a,b\n" * 50_000


def test_gzip_middleware_leaves_the_response_to_a_job_alone() -> None:
    with override_settings(
        MIDDLEWARE=[settings.MIDDLEWARE[0], "django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE[1:]]
    ):
        assert run(lambda _: JsonResponse({"text": "x" * 1000})).result == {"text": "x" * 1000}
        compressed = gzip.compress(b'{"rows": 50}')
        state = run(
            lambda _: HttpResponse(compressed, headers={"Content-Encoding": "gzip"}, content_type="application/json")
        )
        assert state.result == {"rows": 50}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Http404("No such customer"), "404 Not Found: No such customer"),
        (Http404(gettext_lazy("No such customer")), "404 Not Found: No such customer"),
        (Http404(), "404 Not Found"),
        (PermissionDenied("Only on weekdays"), "403 Forbidden: Only on weekdays"),
        (PermissionDenied(), "403 Forbidden"),
        (BadRequest("No rows"), "400 Bad Request: No rows"),
        (SuspiciousOperation("path traversal"), "400 Bad Request"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_that_is_a_4xx_response_keeps_its_message(error: Exception, text: str, debug: bool) -> None:
    def raising(_request: HttpRequest) -> HttpResponse:
        raise error

    with override_settings(DEBUG=debug):
        state = run(raising)
    if debug and "path" in str(error):
        return  # Django's page for the developer
    assert (state.status, state.status_text, state.error) == (Status.FAILED, text, None)


def test_an_unknown_path_has_no_message() -> None:
    with immediate():
        state = jobs.status(jobs.start("/nowhere", as_current_user=False))
    assert state.status_text == "404 Not Found"


def test_visitors_see_an_exception_only_while_debugging() -> None:
    def raising(_request: HttpRequest) -> HttpResponse:
        raise ValueError("secret")

    state = run(raising)
    assert (state.status_text, state.error) == ("ValueError: secret", "unexpected")
    url = jobs.status_url(state.id)
    shown = Client().get(url, headers={"accept": "application/json"}).json()
    assert shown["status_text"] == f"internal error (job {state.id})"
    jobs.reset()
    with override_settings(DEBUG=True):
        shown = Client().get(url, headers={"accept": "application/json"}).json()
    assert shown["status_text"] == "ValueError: secret"


# --- Django REST framework --------------------------------------------------------------------------------------------------


def test_the_messages_of_rest_framework() -> None:
    pytest.importorskip("rest_framework")
    from rest_framework import exceptions, serializers
    from rest_framework.response import Response
    from rest_framework.views import APIView

    fields = {"email": serializers.EmailField(), "age": serializers.IntegerField(min_value=18)}
    customer: Any = type("Customer", (serializers.Serializer,), fields)

    def made(respond: Any) -> Any:
        attributes = {
            "authentication_classes": (),
            "permission_classes": (),
            "get": lambda _self, _request: respond(),
        }
        work: Any = type("Work", (APIView,), attributes)
        return work.as_view()

    def invalid() -> Response:
        customer(data={"email": "ann", "age": 7}).is_valid(raise_exception=True)
        return Response()

    def denied() -> Response:
        raise exceptions.PermissionDenied("Only on weekdays")

    def missing() -> Response:
        raise exceptions.NotFound

    assert run(made(lambda: Response({"rows": 50}))).result == {"rows": 50}
    text = "email: Enter a valid email address.; age: Ensure this value is greater than or equal to 18."
    assert run(made(invalid)).status_text == f"400 Bad Request: {text}"
    assert run(made(denied)).status_text == "403 Forbidden: Only on weekdays"
    assert run(made(missing)).status_text == "404 Not Found"


# --- storages -----------------------------------------------------------------------------------------------------------------


class TestFileSystemStorage(FilesContract):
    def make_files(self) -> Files:
        return StorageFiles()


class TestInMemoryStorage(FilesContract):
    in_memory = True

    @pytest.fixture(autouse=True)
    def _clean_files(self) -> Iterator[None]:
        memory = {"backjob": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
        with override_settings(STORAGES={**settings.STORAGES, **memory}):
            yield

    def make_files(self) -> Files:
        return StorageFiles("backjob")


def test_a_storage_named_backjob_is_used() -> None:
    memory = {"backjob": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
    with override_settings(STORAGES={**settings.STORAGES, **memory}):
        jobs.reset()
        files = engine().files
        assert isinstance(files, StorageFiles)
        assert isinstance(files._storage, InMemoryStorage)


def test_files_names_a_storage_or_a_directory(tmp_path: Path) -> None:
    for given, kind in (("default", StorageFiles), (str(tmp_path / "here"), DirectoryFiles)):
        with override_settings(BACKJOB={**settings.BACKJOB, "FILES": given}):
            jobs.reset()
            assert isinstance(engine().files, kind)
    jobs.reset()
    files = engine().files
    assert isinstance(files, StorageFiles)
    assert isinstance(files._storage, FileSystemStorage)


def test_without_a_storage_files_are_beside_an_sqlite_database() -> None:
    with override_settings(MEDIA_ROOT=""):
        jobs.reset()
        files = engine().files
        name = str(settings.DATABASES["default"]["NAME"])
        if isinstance(files, DirectoryFiles):
            assert str(files.directory).endswith(".files")
        else:
            assert isinstance(files, MemoryFiles), name
