"""Django's own ``runserver`` on a socket that listens already: ``runserver.py DESCRIPTOR``."""

from __future__ import annotations

import os
import socket
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.adapters.django.settings"

import django
from django.core.management import call_command
from django.core.management.commands import runserver
from django.core.servers.basehttp import WSGIServer


def main(descriptor: str) -> None:
    """Serve until the process is ended."""
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
            """It listens already."""

    runserver.Command.server_cls = Adopting
    django.setup()
    call_command("runserver", f"{host}:{port}", use_reloader=False, skip_checks=True)


if __name__ == "__main__":
    main(sys.argv[1])
