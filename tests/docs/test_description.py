"""The OpenAPI description agrees with the code, and docs/status-routes.md links to it."""

from __future__ import annotations

from backjob import Status
from tests.docs.description import described_methods, description, served_methods
from tests.docs.pages import ROOT
from tests.unit.acting import Acting, quiet_jobs


def test_the_description_has_exactly_the_routes_and_methods_of_the_code() -> None:
    assert described_methods(description()) == served_methods()


def test_the_description_has_every_field_and_every_status() -> None:
    with quiet_jobs() as jobs:
        state = jobs.status(Acting(jobs).id).as_dict()
    schema = description()["components"]["schemas"]["State"]
    assert list(schema["properties"]) == list(state)
    assert schema["required"] == list(state)
    named = {value["const"]: value["title"] for value in schema["properties"]["status"]["oneOf"]}
    assert named == {int(status): status.name for status in Status}
    assert schema["properties"]["status_name"]["enum"] == [status.name for status in Status]


def test_operation_ids_are_unique() -> None:
    operations = [
        operation["operationId"]
        for item in description()["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(set(operations)) == len(operations)


def test_the_page_of_the_routes_links_to_the_description_and_shows_it() -> None:
    page = (ROOT / "docs" / "status-routes.md").read_text(encoding="utf-8")
    assert "](openapi.yaml)" in page
    assert '--8<-- "docs/openapi.yaml"' in page
