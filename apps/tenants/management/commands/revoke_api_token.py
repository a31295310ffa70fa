"""Revokes a token of the REST API."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from knox.settings import CONSTANTS

from apps.tenants.access import principal_of_command
from apps.tenants.actions import revoke_token
from apps.tenants.models import ApiToken
from portal import commands

SHORTEST = 8


class Command(commands.Command):
    help = "Revokes an API token: the next request that carries it is refused."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "token", metavar="TOKEN", help="the token, or its first characters as list_api_tokens tells them"
        )
        parser.add_argument("--reason", default="", help="kept in the audit trail")

    def handle(self, *args: Any, **options: Any) -> None:
        start = options["token"].rstrip("…")[: CONSTANTS.TOKEN_KEY_LENGTH]
        if len(start) < SHORTEST:
            raise CommandError(f"Give at least {SHORTEST} characters of the token.")
        found = list(ApiToken.objects.filter(token_key__startswith=start).select_related("user", "tenant")[:2])
        if not found:
            raise CommandError(f"No token begins with {start}; it may have been revoked already.")
        if len(found) > 1:
            raise CommandError(f"Several tokens begin with {start}: give more of it.")
        (token,) = found
        revoke_token(token, by=principal_of_command("revoke_api_token"), reason=options["reason"])
        self.stdout.write(f"Revoked {token.token_key}… of {token.user.username} in {token.tenant.slug}.")
