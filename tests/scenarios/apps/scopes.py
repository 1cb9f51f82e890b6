"""Helpers for the ASGI scenario apps: the `Visit` of a scope, and a mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from tests.scenarios.apps.config import MOUNT
from tests.scenarios.site import Visit

__all__ = ["App", "Receive", "Scope", "Send", "mounted", "prefixed", "visit_of"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def visit_of(scope: Any, body: bytes) -> Visit:
    """The `Visit` for an ASGI scope and a body."""
    path, root = scope["path"], scope.get("root_path", "")
    query = scope["query_string"].decode("latin-1")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    raw = scope.get("raw_path")
    return Visit(
        method=scope["method"],
        path=path.removeprefix(root) if root else path,
        query=query,
        raw=None if raw is None else raw.decode("latin-1") + (f"?{query}" if query else ""),
        mount=root,
        headers=headers,
        body=body,
        address=scope["client"][0] if scope.get("client") else "",
        scheme=scope["scheme"],
        host=headers.get("host", ""),
        parameters={name: values[-1] for name, values in parse_qs(query).items()},
    )


def mounted(app: Any) -> App:
    """The application at the root, and under `MOUNT` with that as its root path."""

    async def mount(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(MOUNT + "/"):
            scope = {**scope, "root_path": scope.get("root_path", "") + MOUNT}
        await app(scope, receive, send)

    return mount


def prefixed(app: Any) -> App:
    """The application behind a proxy that strips a prefix and names it in X-Forwarded-Prefix."""

    async def prefix(scope: Scope, receive: Receive, send: Send) -> None:
        named = dict(scope.get("headers", ())).get(b"x-forwarded-prefix")
        await app(scope if named is None else {**scope, "root_path": named.decode()}, receive, send)

    return prefix
