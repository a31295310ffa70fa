from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.demo.history import write_history
from apps.demo.seeding import seed
from apps.tenants.access import principal_of_command
from portal.commands import Command as BaseCommand

DEFAULT_REGIONS = ("sim-east=http://127.0.0.1:8001/v1", "sim-west=http://127.0.0.1:8002/v1")


class Command(BaseCommand):
    help = (
        "Makes the demo: tenants acme, widget and trial with their budgets, the users admin, operator, finance, "
        "compliance and viewer, a provider with two simulated regions, and a made-up history of what the tenants "
        "spent where nothing was spent yet. What is there already stays as it is, so it can be run again at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--password", default="", help="Password of users that are made now. Default: a random one, printed."
        )
        parser.add_argument(
            "--region-url",
            "--region",
            dest="regions",
            action="append",
            metavar="NAME=URL",
            help=f"A simulated region and its base URL; can be given again. Default: {' '.join(DEFAULT_REGIONS)}",
        )
        parser.add_argument("--no-history", dest="history", action="store_false", help="Leave an empty ledger empty.")

    def handle(
        self, *args: Any, password: str, regions: list[str] | None, history: bool, verbosity: int, **options: Any
    ) -> None:
        places = dict(_region(text) for text in regions or DEFAULT_REGIONS)
        is_random = not password
        password = password or "-".join(secrets.token_hex(2) for _ in range(3))
        done = seed(password=password, regions=places, by=principal_of_command("seed_demo"))
        if history and (entries := write_history(timezone.now())):
            done.made.append(f"a made-up history of {entries:,} ledger entries")
        if verbosity:
            for line in done.made or ["Nothing to do: the demo is there."]:
                self.stdout.write(line)
            if done.users and is_random:
                self.stdout.write(f"The password of {', '.join(done.users)}: {password}")


def _region(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    if not name or parts.scheme not in ("http", "https") or not parts.netloc:
        raise CommandError(f"--region-url {text}: expected NAME=URL, such as sim-east=http://127.0.0.1:8001/v1")
    return name, url
