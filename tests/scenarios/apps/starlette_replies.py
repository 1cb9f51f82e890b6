"""The scenario site's replies as responses of Starlette and FastAPI."""

from __future__ import annotations

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from tests.scenarios.coroutines import AsyncReply
from tests.scenarios.site import Reply

__all__ = ["response_of", "response_of_async"]


def response_of(reply: Reply) -> Response:
    """The response for a reply of the site."""
    kind = Response if isinstance(reply.body, str) else StreamingResponse
    response: Response = kind(reply.body, status_code=reply.status, headers=dict(reply.headers))
    response.headers["content-type"] = reply.content_type
    return response


def response_of_async(reply: AsyncReply) -> Response:
    """The response for a reply of the site's coroutines."""
    if isinstance(reply.body, str):
        return PlainTextResponse(reply.body)
    return StreamingResponse(reply.body, media_type="text/plain")
