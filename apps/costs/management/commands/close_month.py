"""``manage.py close_month``: closes a tenant's month for good."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, ClassVar

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.costs.exports.extract import CannotExport, extract_of
from apps.costs.periods import Month
from apps.costs.statement_contents import owed_in, unsettled_in
from apps.costs.statements import CannotClose, close, verify_close
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal import commands
from portal.money import usd_text


class Command(commands.WetRunMixin, commands.Command):
    help = (
        "Closes a tenant's month: its ledger entries and its statement never change again, and what is found to be "
        "wrong later is corrected in an open month. Without --wet-run it tells what is owed for the month, and whether "
        "it can be closed now."
    )
    refusals: ClassVar[tuple[type[Exception], ...]] = (CannotClose, CannotExport)

    def __init__(self, *args: Any, now: Callable[[], dt.datetime] = timezone.now, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._now = now

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--tenant", required=True, metavar="SLUG", help="the tenant")
        parser.add_argument("--period", required=True, metavar="YYYY-MM", help="a month in the tenant's time zone")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            raise CommandError(f"No tenant {options['tenant']!r}.")
        now = self._now()
        extract = extract_of(tenant, options["period"], now=now)
        month = Month.parse(options["period"])
        if options["wet_run"]:
            statement = close(tenant, month, by=principal_of_command("close_month"), now=now)
            self.stdout.write(f"{month} of {tenant.slug} is closed: {_told(statement.total, statement.entries)}.")
            return
        amount, entries = owed_in(extract)
        self.stdout.write(f"{month} of {tenant.slug}: {_told(amount, entries)}.")
        unsettled, charged = unsettled_in(extract)
        if unsettled:
            self.stdout.write(
                f"Not settled: {unsettled:,} of them, charged as reserved with {usd_text(charged)} USD. They would be "
                "corrected in a later month."
            )
        try:
            verify_close(tenant, month, now=now)
        except CannotClose as cannot:
            self.stdout.write(f"It cannot be closed now. {cannot}")
        else:
            self.stdout.write("It can be closed now.")


def _told(amount: int, entries: int) -> str:
    return f"{usd_text(amount)} USD in {entries:,} ledger entr{'y' if entries == 1 else 'ies'}"
