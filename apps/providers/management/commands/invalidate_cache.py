"""Has cached answers forgotten, or what is known of providers read anew, by pattern."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from apps.providers import invalidating
from apps.providers.invalidating import BadPattern, CannotInvalidate
from apps.providers.models import Cache
from apps.tenants.access import AccessDenied, principal_of_command
from portal.commands import Command as BaseCommand
from portal.commands import WetRunMixin


class Command(WetRunMixin, BaseCommand):
    help = (
        "Forgets the cached answers that a pattern means, in every process at once: TENANT/AGENT/PROVIDER:MODEL, where "
        "* is any text and ? any character, such as 'acme/*/openai:*'. For the configuration and the catalogue of "
        "models the pattern is one of names of providers, such as 'openai' or '*'; they are read anew within seconds."
    )
    refusals = (BadPattern, CannotInvalidate)

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("pattern", help="TENANT/AGENT/PROVIDER:MODEL, or a name of providers.")
        parser.add_argument("--cache", choices=Cache.values, default=Cache.RESPONSES.value, help="Default: responses.")
        parser.add_argument("--reason", default="", help="Kept in the audit trail.")

    def handle(self, *args: Any, pattern: str, cache: str, reason: str, wet_run: bool, **options: Any) -> None:
        by, now = principal_of_command("invalidate_cache"), timezone.now()
        if Cache(cache) is not Cache.RESPONSES:
            names = invalidating.providers_of(pattern)
            if wet_run:
                invalidating.reload(Cache(cache), pattern, by=by, reason=reason, now=now)
            who = "by a worker that holds the key" if Cache(cache) is Cache.CATALOGUE else "by every process"
            done = f"{'is' if wet_run else 'would be'} read anew {who}"
            self.stdout.write(f"The {Cache(cache).label.lower()} of {', '.join(each.name for each in names)} {done}.")
            return
        try:
            patterns = invalidating.patterns_of(pattern, by=by)
        except AccessDenied as error:
            raise CommandError(f"There is no tenant {pattern.partition('/')[0]!r}.") from error
        if wet_run:
            self.stdout.write(
                f"{invalidating.invalidate(patterns, by=by, reason=reason, now=now):,} answers forgotten."
            )
        else:
            self.stdout.write(f"{invalidating.count(patterns):,} answers would be forgotten.")
