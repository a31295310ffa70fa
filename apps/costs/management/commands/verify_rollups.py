"""Compares every roll-up of costs with the ledger."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from apps.costs import consistency, rollups
from portal import commands

MOST = 20


class Command(commands.Command):
    help = (
        "Compares every roll-up of costs with the ledger, which it reads once (minutes for ten million entries), "
        "and prints what differs. Exit 0: they are equal; 1: something differs. With --rebuild, they are made anew "
        "first; reports go on with the old ones until that is done."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rebuild", action="store_true", help="make all roll-ups anew from the ledger first")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["rebuild"]:
            self.stdout.write(f"Made anew from {rollups.rebuild(now=timezone.now()):,} entries.")
        gaps = consistency.rollups_differ_from_ledger(limit=MOST + 1)
        for gap in gaps[:MOST]:
            self.stdout.write(f"{gap.table} {gap.key}: recorded {gap.recorded}, the ledger says {gap.rows}")
        if gaps:
            more = " There are more." if len(gaps) > MOST else ""
            self.stdout.write(f"{len(gaps[:MOST])} rows differ.{more} Mend them: manage.py verify_rollups --rebuild")
            raise SystemExit(1)
        self.stdout.write(f"The roll-ups equal the ledger up to entry {rollups.position()}.", self.style.SUCCESS)
