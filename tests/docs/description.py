"""The OpenAPI description of the status routes, and the routes in the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from backjob.status import endpoints
from tests.docs.pages import ROOT

__all__ = ["DESCRIPTION", "described_methods", "description", "served_methods"]

DESCRIPTION: Final = ROOT / "docs" / "openapi.yaml"


def description() -> dict[str, Any]:
    """The parsed description."""
    import yaml  # not installed in every environment that collects these tests

    value: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))
    return value


def described_methods(value: Mapping[str, Any]) -> dict[str, set[str]]:
    """Each path with its methods. HEAD is added to GET, as the description says."""
    methods = {path: {name.upper() for name in item if name != "parameters"} for path, item in value["paths"].items()}
    return {path: names | ({"HEAD"} if "GET" in names else set()) for path, names in methods.items()}


def served_methods() -> dict[str, set[str]]:
    """The same from the tables in the code."""
    routes = {f"/{{id}}/{leaf}".rstrip("/"): set(route.methods) for leaf, route in endpoints.Endpoints._routes.items()}
    routes["/"] = set(endpoints._READING)
    return routes | {path: {"GET", "HEAD"} for path in endpoints._STATIC}
