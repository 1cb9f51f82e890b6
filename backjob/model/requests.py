"""A request, its response, and what comes with it: credentials, and the origin of the call that started the job."""

from __future__ import annotations

from attrs import evolve, field, frozen

from backjob.model.texts import Headers


def _names_only(headers: Headers) -> str:
    return "[" + ", ".join(name for name, _ in headers) + "]"


def _path_only(target: str) -> str:
    path, mark, _ = target.partition("?")
    return repr(path + "?…" if mark else path)


@frozen
class Request:
    """A request to send, or one that arrived, for any framework. Its repr shows no query, no header value and no body.

    ``target`` is in origin-form (RFC 9112, section 3.2.1): a percent-encoded path and, after a ``?``, a query.
    ``raw`` is False if the server provided only a decoded path, from which ``target`` was rebuilt. ``mount`` is the
    beginning of a worker request's target that is not signed: the server moves it to SCRIPT_NAME or root_path, and the
    application routes the rest.
    """

    method: str
    target: str = field(repr=_path_only)
    headers: Headers = field(default=(), repr=_names_only)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    raw: bool = field(default=True, repr=False)
    mount: str = field(default="", repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def with_path(self, path: str, *, raw: bool) -> Request:
        """Return this request with another path and the same query."""
        return evolve(self, target=f"{path}?{self.query}" if self.query else path, raw=raw)

    @property
    def query(self) -> str:
        """The query without its ``?``; empty if there is none."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The values of a field, joined by ``", "`` (RFC 9110, section 5.3), or None."""
        wanted = name.lower()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return ", ".join(values) if values else None


@frozen
class Response:
    """A complete response to a worker request. ``body`` is its beginning, and not all of it if ``truncated``."""

    status: int
    reason: str = ""
    headers: Headers = field(default=(), repr=_names_only)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")
    truncated: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a field, or None."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@frozen
class Credentials:
    """The header fields that authenticate a worker request as the current user. Its repr shows only their names."""

    headers: Headers = field(default=(), repr=_names_only)

    def __bool__(self) -> bool:
        return bool(self.headers)


@frozen
class Caller:
    """The origin of the request that called ``start()``; the action sees the same.

    ``forwarded`` has the fields that proxies added (``X-Forwarded-For`` and the like). ``mount`` is the path under which
    the application is mounted as its users see it: SCRIPT_NAME or root_path, percent-encoded.
    """

    scheme: str
    host: str
    address: str
    forwarded: Headers = field(default=(), repr=_names_only)
    mount: str = ""
