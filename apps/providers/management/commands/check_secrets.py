"""Tells whether this process can read the keys that a class of workers needs."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import CommandParser

from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider
from apps.providers.models.provider import AGENTS, validate_worker_class
from apps.providers.secrets.backend import SecretsError
from apps.providers.secrets.backends import open_backend
from apps.providers.secrets.keeper import Keeper
from portal.commands import Command as BaseCommand


class Command(BaseCommand):
    help = (
        "Reads the keys of providers once, as a worker of a class does when it starts, and tells which it got; never a "
        "key. Run it where the workers run: it uses the same environment. Exit 0: all; 1: some could not be read."
    )
    refusals: ClassVar[tuple[type[Exception], ...]] = (SecretsError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--class", dest="worker_class", default=AGENTS, metavar="NAME", help="Default: agents.")

    def handle(self, *args: Any, worker_class: str, **options: Any) -> None:
        validate_worker_class(worker_class)
        backend = open_backend(settings.SECRETS_BACKEND)
        backend.health()
        self.stdout.write(f"{settings.SECRETS_BACKEND} answers.")
        keeper = Keeper(worker_class, backend=backend)
        keeper.step()
        failed = 0
        wanted = Provider.objects.with_keys().filter(worker_classes__contains=[worker_class])
        for name in sorted(set(wanted.values_list("secret_name", flat=True))):
            try:
                key = keeper.key(name)
            except ProviderUnavailable as why:
                failed += 1
                self.stdout.write(f"{name}: {why}", self.style.ERROR)
            else:
                self.stdout.write(f"{name}: read, fingerprint {key.fingerprint}")
        if not wanted:
            self.stdout.write(f"No provider names a key that workers of the class {worker_class} may read.")
        if failed:
            raise SystemExit(1)
