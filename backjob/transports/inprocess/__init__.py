"""Runs worker requests in this process, without sockets: for processes that are no web server."""

from backjob.transports.inprocess.transport import InProcessTransport

__all__ = ["InProcessTransport"]
