"""Charges infrastructure and storage for the full hours that are not accrued yet."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.utils import timezone

from apps.costs import accrual
from apps.costs.models import Accruing, Rate
from portal.commands import Command as BaseCommand
from portal.money import usd_label


class Command(BaseCommand):
    help = (
        "Charges infrastructure (agent-hours) and storage (GB-months) for each full hour that is not accrued yet, as a "
        "job does every hour. No hour is charged twice, however often this is run."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not Rate.objects.exists():
            self.stdout.write("Nothing accrues: there is no rate. Add one in the admin under Rates.")
            return
        done = accrual.accrue(now=timezone.now(), most=accrual.MOST_HOURS * 53, progress=self._tell)
        for each in done:
            charged = f"{each.entries} entries, {usd_label(each.amount)}"
            self.stdout.write(f"{str(each.kind).capitalize()}: {each.hours} hour(s), {charged}.")

    def _tell(self, kind: Accruing, hour: dt.datetime, left: int) -> None:
        if left and left % 24 == 0:
            self.stderr.write(f"{kind}: accrued {hour:%Y-%m-%d %H:%M} UTC, {left} hours to go.")
