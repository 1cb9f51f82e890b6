"""Django's ``runserver`` on a socket that already listens: ``runserver.py MODULE:APP DESCRIPTOR``.

Importing the module sets up Django; the app stands for a project's ``WSGI_APPLICATION``.
"""

from __future__ import annotations

import socket
import sys

from django.conf import settings
from django.core.management import call_command
from django.core.management.commands import runserver
from django.core.servers.basehttp import WSGIServer

from tests.scenarios.serve import load


def main(app: str, descriptor: str) -> None:
    """Serve until the process ends."""
    listening = socket.socket(fileno=int(descriptor))
    host, port = listening.getsockname()[:2]

    class Adopting(WSGIServer):
        def server_bind(self) -> None:
            self.socket.close()
            self.socket = listening
            self.server_address = listening.getsockname()
            self.server_name, self.server_port = host, port
            self.setup_environ()

        def server_activate(self) -> None:
            """The socket already listens."""

    load(app)
    settings.WSGI_APPLICATION = app.replace(":", ".")
    runserver.Command.server_cls = Adopting
    call_command("runserver", f"{host}:{port}", use_reloader=False, skip_checks=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
