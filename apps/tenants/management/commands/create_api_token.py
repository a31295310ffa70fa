"""Makes a token for the REST API."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.core.management.base import CommandError, CommandParser
from knox.settings import knox_settings

from apps.tenants.access import principal_of_command
from apps.tenants.actions import LONGEST_TOKEN_LIFE, CannotCreateToken, create_token
from apps.tenants.models import Tenant, User
from apps.tenants.roles import Permission, Role
from portal import commands

MOST_NAMES = 20


def _names(names: list[str]) -> str:
    """Names in a line, not more than a person reads."""
    if not names:
        return "none yet"
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + rest


class Command(commands.Command):
    refusals = (CannotCreateToken,)
    help = (
        "Makes a token for the REST API that acts for a user in one tenant, and prints it once, alone on the last "
        "line. Use it as: Authorization: Bearer TOKEN"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", required=True, metavar="NAME", help="login name of the user it acts for")
        parser.add_argument("--tenant", required=True, metavar="SLUG", help="the one tenant it reaches")
        parser.add_argument(
            "--role",
            default="",
            help=f"narrows it to one role the user holds there ({', '.join(Role.values)}); without it, all of them",
        )
        parser.add_argument(
            "--permission",
            action="append",
            default=[],
            dest="permissions",
            metavar="NAME",
            help="narrows it to this permission of its roles, such as swarm:read; may be repeated",
        )
        parser.add_argument("--name", default="", help="what it is for")
        parser.add_argument(
            "--expires",
            type=int,
            default=knox_settings.TOKEN_TTL.days,
            metavar="DAYS",
            help=f"days until it expires, 1 to {LONGEST_TOKEN_LIFE.days} (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            names = list(User.objects.order_by("username").values_list("username", flat=True))
            raise CommandError(f"No user {options['user']!r}. Users: {_names(names)}.")
        tenant = Tenant.objects.filter(slug=options["tenant"]).first()
        if tenant is None:
            slugs = list(Tenant.objects.order_by("slug").values_list("slug", flat=True))
            raise CommandError(f"No tenant {options['tenant']!r}. Tenants: {_names(slugs)}.")
        if options["role"] and options["role"] not in Role.values:
            raise CommandError(f"No role {options['role']!r}. Roles: {', '.join(Role.values)}.")
        if unknown := sorted(set(options["permissions"]) - set(Permission)):
            raise CommandError(f"No permission {unknown[0]!r}. Permissions: {', '.join(Permission)}.")
        if len(options["name"]) > 100:
            raise CommandError("--name has at most 100 characters.")
        if not 1 <= options["expires"] <= LONGEST_TOKEN_LIFE.days:
            raise CommandError(f"--expires is a number of days from 1 to {LONGEST_TOKEN_LIFE.days}.")
        token, text = create_token(
            user,
            tenant,
            role=options["role"],
            permissions=options["permissions"],
            name=options["name"],
            life=dt.timedelta(days=options["expires"]),
            by=principal_of_command("create_api_token"),
        )
        role = f"as {token.role}" if token.role else "with every role held there"
        if token.permissions:
            role += f" narrowed to {', '.join(token.permissions)}"
        self.stdout.write(
            f"Token for {user.username} in {tenant.slug}, {role}, until {token.expiry:%Y-%m-%d %H:%M} UTC."
        )
        self.stdout.write("Keep it now: it is shown only this once.")
        self.stdout.write(text)
