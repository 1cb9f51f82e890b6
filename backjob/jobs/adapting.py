"""What an engine gets from its framework, such as the request being served. Adapters override it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from backjob.errors import InvalidRequest
from backjob.http.serving import Serving, serving
from backjob.http.targets import local_path
from backjob.jobs.carrying import Carrying
from backjob.jobs.cursors import Keyed
from backjob.jobs.keeping import files_beside
from backjob.lifecycle import End
from backjob.model import Job
from backjob.protocols import Files
from backjob.worker.offload import to_thread

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Adapting(Carrying):
    """The part of an engine that depends on the framework: adapters override its methods, and those of `Visitors`."""

    testing_module = "backjob.testing"
    """The module with the tools for tests, for error messages."""

    def base_url_setting(self, *, unix: bool = False) -> str:
        """Return how to set the base URL and, for a server on a unix socket, the address to connect to."""
        connect_to = ', "unix:/path/of/the/socket"' if unix else ""
        return f'set the base URL: BackJob(transport=SocketTransport("https://your.site"{connect_to}))'

    def url_of_worker(self) -> str:
        """Return the URL that an action sees which no request started, in a process without a server."""
        return self.options.public_url or getattr(self.transport, "base_url", None) or self.default_url()

    def default_url(self) -> str:
        """Return the application's URL as far as the framework knows it, or one with ``localhost``."""
        return "http://localhost"

    def here(self) -> Serving | None:
        """Return the request that this thread or task is serving."""
        return serving.get()

    def mount(self) -> str:
        """Return the path under which the application is mounted, as far as it is known outside of requests."""
        return ""

    def current_owner(self) -> str | None:
        """Return the owner of the request being served, or None."""
        here = self.here()
        return None if here is None else self.owner_of(here.request)

    def run_as_owner(self, job: Job, request: Any) -> None:
        """Have the action of a job that was started ``as_owner`` run as its owner.

        Middleware calls it with the framework's request (WSGI: the environ, ASGI: the scope) after the claim, before the
        application sees that request; it may block. By default it does nothing: the action reads ``jobs.owner``. An
        adapter for your own framework puts ``job.owner`` where the framework's code looks for the user. Load the user
        anew, and raise `JobFailed` with the reason if it may not act: then the job fails, and its action does not run. Any
        other exception counts as the action's, so the job may be retried.
        """

    def default_files(self) -> Files | None:
        """Return where files are kept if the setting FILES does not say so, or None if there is no place."""
        return files_beside(self.options.store)

    def is_stock_message(self, status: int, message: str) -> bool:  # noqa: ARG002 - for adapters
        """Return whether the framework itself says this in every response with the status."""
        return False

    def session_cookie(self) -> str:
        """Return the name of the framework's session cookie."""
        return "session"

    def changed_cookies(self) -> Mapping[str, str | None]:
        """Return the cookies that the response sets because the session was changed; None deletes one.

        Raises `InvalidRequest` ("as_current_user") if they can't be had before the response.
        """
        here = self.here()
        return {} if here is None else here.changed_cookies()

    def status_url(self, job_id: str, cancel: bool = False, absolute: bool = False) -> str:
        """See `BackJob.status_url`."""
        return f"{self._status_mount(absolute=absolute)}/{self.reference(job_id, 'cancel' if cancel else 'view')}"

    def _status_mount(self, *, absolute: bool) -> str:
        if not absolute:
            here = self.here()
            return f"{local_path('' if here is None else here.mount)}{self.status_prefix}"
        mount = self.public_mount()
        if mount is None:
            raise InvalidRequest(
                "absolute", "needs PUBLIC_URL, the URL of the application for its users: any client may send any Host"
            )
        return mount

    def complete_end(self, job: Job, end: End) -> End:  # noqa: ARG002 - for adapters
        """Return the end to write when a job ends from outside its action. An adapter may add to the result."""
        return end

    def has_receivers(self, job: Job) -> bool:  # noqa: ARG002 - for adapters
        """Return whether `call_back` has anything to call for this job."""
        return self.options.on_end is not None

    def when_committed(self, job_id: str, action: Callable[[], None], *, is_new: bool = False) -> None:  # noqa: ARG002 - for adapters
        """Call ``action`` once other processes can see the write: immediately, unless the caller has a transaction open.

        ``is_new``: the write created the job, and the action delivers it.
        """
        action()

    def in_transaction(self) -> str | None:
        """Return the name of a database in which this thread has a transaction open that could undo what a cursor counts."""
        return None

    def keyed(self, rows: object) -> Keyed | None:  # noqa: ARG002 - for adapters
        """Return a query to be read in the order of its key, or None if ``rows`` is no query. Raises `InvalidRequest`."""
        return None

    def release(self) -> None:
        """Close what this thread keeps open in the store, before it ends or stays idle for long."""

    def offload(self, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_R]:
        """Call a blocking function in another thread."""
        return to_thread(function, *args, **kwargs)
