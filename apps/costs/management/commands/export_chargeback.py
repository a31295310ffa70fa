"""``manage.py export_chargeback``: a tenant's month as a file."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.costs.exports.extract import CannotExport, Extract, extract_of
from apps.costs.exports.files import ExportDiffers, export
from apps.costs.exports.formats import Format, file_name
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal import commands
from portal.files import replacing

EXIT_DIFFERS = 1
TOLD_EVERY_S = 5.0
MOST_NAMES = 20


class Command(commands.Command):
    help = (
        "Writes a tenant's month to a file: csv (the lines of the statement), xlsx (a workbook with a summary and "
        "breakdowns) or focus (FOCUS 1.2, a row for every charge). A closed month is the same file every time; one "
        "that is not closed is a draft. The file is written beside its place and moved there when it is whole."
    )
    refusals: ClassVar[tuple[type[Exception], ...]] = (CannotExport,)

    def __init__(
        self,
        *args: Any,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = timezone.now,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self._now = now

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, metavar="SLUG", help="the tenant")
        parser.add_argument("--period", required=True, metavar="YYYY-MM", help="a month in the tenant's time zone")
        parser.add_argument("--format", required=True, choices=Format.values, help="what the file is")
        parser.add_argument(
            "--output", required=True, metavar="FILE", help="the file; in a folder, it is named after tenant and month"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            slugs = list(Tenant.objects.order_by("slug").values_list("slug", flat=True)[: MOST_NAMES + 1])
            more = ", ..." if len(slugs) > MOST_NAMES else ""
            raise CommandError(f"No tenant {options['tenant']!r}. Tenants: {', '.join(slugs[:MOST_NAMES])}{more}.")
        extract = extract_of(tenant, options["period"], now=self._now())
        format = Format(options["format"])
        path = Path(options["output"])
        if path.is_dir():
            path /= file_name(extract, format)
        try:
            size = self._write(path, extract, format)
        except ExportDiffers as differs:
            commands.refuse("export_chargeback", f"{differs} Nothing was written.", code=EXIT_DIFFERS)
        self.stdout.write(f"{path}: {size:,} bytes.")
        if not extract.is_closed:
            self.stderr.write("This is a draft: the month is not closed, and its figures can still change.")

    def _write(self, path: Path, extract: Extract, format: Format) -> int:
        size = 0
        told = self._clock()
        try:
            with replacing(path) as file:
                for piece in self._pieces(extract, format):
                    file.write(piece)
                    size += len(piece)
                    if self._clock() - told >= TOLD_EVERY_S:
                        told = self._clock()
                        self.stderr.write(f"{size / 1e6:,.0f} MB written ...")
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from error
        return size

    def _pieces(self, extract: Extract, format: Format) -> Iterator[bytes]:
        return export(extract, format, by=principal_of_command("export_chargeback"))
