"""Tells every process to read the keys of providers anew."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from apps.providers.secrets.orders import order_refresh
from apps.tenants.access import principal_of_command
from portal.commands import Command as BaseCommand


class Command(BaseCommand):
    help = (
        "Tells every process to read the keys of providers anew from the secrets backend; they do within seconds, and "
        "nothing is interrupted. Call it after a key was replaced there."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", default="", help="Kept in the audit trail.")

    def handle(self, *args: Any, reason: str, **options: Any) -> None:
        order = order_refresh(by=principal_of_command("refresh_secrets"), reason=reason)
        self.stdout.write(f"Order {order.pk} is given: every process reads its keys anew now.")
