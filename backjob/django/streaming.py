"""Event streams and files as Django responses that occupy no database connection and, in an event loop, no thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from django.http import HttpRequest, StreamingHttpResponse

from backjob.django.connections import close_idle
from backjob.status.exchange import Download
from backjob.status.streaming.stream import Stream
from backjob.worker.offload import to_thread


def streaming(request: HttpRequest, stream: Stream) -> StreamingHttpResponse:
    """Return the response to ``request`` whose body is the stream."""
    request.META.pop("HTTP_ACCEPT_ENCODING", None)  # GZipMiddleware would buffer the events to compress them
    if hasattr(request, "scope"):
        chunks: Any = _Chunks(stream)
    else:
        close_idle()
        chunks = stream
    return StreamingHttpResponse(chunks)


def downloading(request: HttpRequest, download: Download) -> StreamingHttpResponse:
    """Return the response to ``request`` whose body is the file."""
    request.META.pop("HTTP_ACCEPT_ENCODING", None)  # GZipMiddleware would drop its length
    chunks: Any = _Content(download) if hasattr(request, "scope") else download
    return StreamingHttpResponse(chunks)


class _Content:
    """A file for an event loop, which reads it in another thread."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self.close = download.close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await to_thread(self._download.read):
            yield chunk


class _Chunks:
    """A stream for an event loop. It is not iterable in a thread, which Django would otherwise use."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.close = stream.close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await sync_to_async(close_idle)()
        _give_up_thread()
        async for chunk in self._stream:
            yield chunk


def _give_up_thread() -> None:
    """End the thread that Django runs this request's sync code in, and would keep as long as the stream.

    Later sync code gets another thread.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or getattr(context, "_executor", None) is not None:  # there is none, or it is not Django's
        return
    executor = SyncToAsync.context_to_thread_executor.pop(context, None)
    if executor is not None:
        executor.shutdown(wait=False)
