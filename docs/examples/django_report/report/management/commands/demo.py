"""``manage.py demo``."""

from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Migrate and serve the site."""

    help = "Create the database if it does not exist, and serve the site."

    def add_arguments(self, parser):
        """Add the port."""
        parser.add_argument("port", nargs="?", default="8000", help="the port; 0 chooses a free one")

    def handle(self, *args, **options):
        """Serve until Ctrl-C."""
        call_command("migrate", verbosity=0)
        call_command("runserver", f"127.0.0.1:{options['port']}", use_reloader=False, insecure_serving=True)
