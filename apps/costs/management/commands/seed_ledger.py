"""Fills the ledger with a made-up history."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.costs import seeding
from apps.costs.models import LedgerEntry
from apps.tenants.models import Tenant
from portal import commands

MOST_ROWS = 100_000_000


class Command(commands.Command):
    refusals = (seeding.CannotSeed,)
    help = (
        "Fills the ledger with a made-up history of tenants of its own (seeded-0001 is the largest), for benchmarks "
        "and for trying reports out. Entries can never be deleted again, so it refuses a ledger that is in use."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rows", type=int, required=True, metavar="N", help="ledger entries to write")
        parser.add_argument("--tenants", type=int, default=200, metavar="N", help="tenants (default: %(default)s)")
        parser.add_argument(
            "--days", type=int, default=365, metavar="N", help="days of history, until yesterday (default: %(default)s)"
        )
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, another history")
        parser.add_argument(
            "--beside-others",
            action="store_true",
            help="write although the ledger holds entries: they stay apart by tenant, but sums over all tenants mix",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for name, most in (("rows", MOST_ROWS), ("tenants", 9999), ("days", 3650)):
            if not 1 <= options[name] <= most:
                raise CommandError(f"--{name} is a number from 1 to {most}.")
        if not options["beside_others"] and LedgerEntry.objects.order_by().exists():
            others = Tenant.objects.exclude(slug__startswith="seeded-").count()
            raise CommandError(
                f"The ledger is in use ({others} tenants that were not made by this command). What is written to it "
                "can never be deleted. Use an empty database, or add --beside-others to write all the same."
            )
        now = timezone.now()
        yesterday = now.astimezone(dt.UTC).date() - dt.timedelta(days=1)
        plan = seeding.Plan(options["rows"], options["tenants"], options["days"], yesterday, options["seed"])
        began = time.monotonic()

        def tell(what: str, done: int, of: int) -> None:
            self.stdout.write(f"{time.monotonic() - began:6.0f} s  {done:>12,} of {of:,} {what}")

        seeding.seed(plan, progress=tell, now=now)
        self.stdout.write(
            f"Wrote {plan.rows:,} entries of {plan.tenants} tenants from {plan.first} to {plan.last}.",
            self.style.SUCCESS,
        )
