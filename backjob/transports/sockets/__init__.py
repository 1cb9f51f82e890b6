"""The default transport: worker requests over raw sockets and h11."""

from backjob.transports.sockets.transport import SocketTransport

__all__ = ["SocketTransport"]
