"""``manage.py demo``: migrate, and serve."""

from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Show the site."""

    help = "Make the database if it is not there, and serve the site."

    def add_arguments(self, parser):
        """Where to serve."""
        parser.add_argument("port", nargs="?", default="8000", help="a port; 0 takes a free one")

    def handle(self, *args, **options):
        """Until Ctrl-C."""
        call_command("migrate", verbosity=0)
        call_command("runserver", f"127.0.0.1:{options['port']}", use_reloader=False, insecure_serving=True)
