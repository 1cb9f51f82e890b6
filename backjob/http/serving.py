"""The request that this thread or task is serving, as the middleware presents it to the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from backjob.forks import InProcess
from backjob.http.targets import path_below
from backjob.model import Caller, Request

FORWARDED_FIELDS: Final = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Proto",
    "X-Real-IP",
)
"""Header fields in which proxies describe the client. A worker request gets those of the request that started the job."""


IN_PROCESS: Final = "backjob.in_process"
"""The key of an environ or a scope that no server made, but a transport within this process. No client can set it.

Its value is the mount of the request's target, decoded like the path. A server would move it to SCRIPT_NAME or root_path;
here the application does so, or else the middleware.
"""


class Serving(Protocol):
    """An adapter's view of the request being served. Computed on demand, since most requests start no job."""

    @property
    def request(self) -> Request:
        """Method, target and headers, without the body."""
        ...

    @property
    def caller(self) -> Caller:
        """Scheme, host and client, as the server sees them."""
        ...

    @property
    def origin(self) -> str:
        """``scheme://host`` from which the framework builds URLs; the host is the one that the client sent."""
        caller = self.caller
        return f"{caller.scheme}://{caller.host}"

    def changed_cookies(self) -> Mapping[str, str | None]:
        """Return the cookies that the response is going to set, because the session was changed; None deletes one.

        Raises `InvalidRequest` ("as_current_user") if they can't be had before the response.
        """
        return {}

    @property
    def is_test_client(self) -> bool:
        """Whether a test client made the request up, so that no server can run its jobs."""
        return False

    @property
    def in_thread(self) -> bool:
        """Whether the response occupies a thread until it is sent, as under WSGI."""
        return True

    @property
    def mount(self) -> str:
        """The path under which the application is mounted: SCRIPT_NAME or root_path, percent-encoded."""
        ...


serving: InProcess[Serving] = InProcess("backjob_serving")


def page_path(here: Serving) -> str | None:
    """Return path and query of the page that is being served, as a link of its browser; None if it was not requested by GET."""
    request = here.request
    if request.method not in ("GET", "HEAD"):
        return None
    # A proxy or the server may have removed the mount.
    return request.target if path_below(request.path, here.mount) is not None else here.mount + request.target
