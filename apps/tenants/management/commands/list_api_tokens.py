"""Lists the tokens of the REST API."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.tenants.models import ApiToken, Tenant
from portal import commands


class Command(commands.Command):
    help = "Lists the API tokens there are, the latest first: how each begins, for whom it acts, and its last use."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="only those of this tenant")
        parser.add_argument("--user", metavar="NAME", help="only those that act for this user")
        parser.add_argument("--json", action="store_true", help="one JSON list instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        tokens = ApiToken.objects.select_related("user", "tenant").order_by("-created", "-uid")
        if options["tenant"]:
            if not Tenant.objects.filter(slug=options["tenant"]).exists():
                raise CommandError(f"No tenant {options['tenant']!r}.")
            tokens = tokens.filter(tenant__slug=options["tenant"])
        if options["user"]:
            tokens = tokens.filter(user__username=options["user"])
        now = timezone.now()
        rows = [
            {
                "start": token.token_key,
                "name": token.name,
                "user": token.user.username,
                "tenant": token.tenant.slug,
                "role": token.role,
                "permissions": token.permissions,
                "created_at": token.created.isoformat(),
                "expires_at": token.expiry.isoformat() if token.expiry else None,
                "expired": token.has_expired(now=now),
                "last_used_at": token.last_used_at.isoformat() if token.last_used_at else None,
            }
            for token in tokens
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        if not rows:
            self.stdout.write("There are no tokens.")
        for row in rows:
            held = ", ".join(row["permissions"]) or row["role"] or "every role"
            ends = "never expires" if row["expires_at"] is None else f"expires {row['expires_at'][:10]}"
            used = f"last used {row['last_used_at'][:16]}" if row["last_used_at"] else "never used"
            self.stdout.write(
                f"{row['start']}…  {row['user']} in {row['tenant']} ({held}), "
                f"{'EXPIRED' if row['expired'] else ends}, {used}{'  ' + row['name'] if row['name'] else ''}"
            )
