"""The models that a provider says it offers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Coalesce
from django.utils import timezone

from apps.providers.models.provider import Provider

AGAIN = dt.timedelta(minutes=15)
"""After a try that brought nothing."""


class CatalogueQuerySet(models.QuerySet["Catalogue"]):
    def names_of(self, providers: Collection[str]) -> dict[str, list[str]]:
        """The names that these providers listed, by provider; those whose list is not known are left out. One query."""
        known = self.filter(provider__name__in=providers, fetched_at__isnull=False)
        return dict(known.order_by("provider__name").values_list("provider__name", "names"))

    def sums(self) -> dict[str, int]:
        """How many ``entries`` all lists have, and their ``size`` in bytes. One query."""
        entries = models.Func("names", function="cardinality", output_field=models.IntegerField())
        size = models.Func("names", function="pg_column_size", output_field=models.IntegerField())
        return self.aggregate(entries=Coalesce(models.Sum(entries), 0), size=Coalesce(models.Sum(size), 0))


class Catalogue(models.Model):
    """The names of a provider's models, as it listed them at ``fetched_at``; ``asked_at`` is the last try.

    ``due_at`` is when it is asked again. A process that is about to ask moves it, so no two ask at once, and one that
    dies meanwhile delays the next try, and loses nothing.
    """

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, primary_key=True, related_name="catalogue")
    names = ArrayField(models.CharField(max_length=200), default=list)
    fetched_at = models.DateTimeField(null=True, blank=True)
    asked_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(default=timezone.now)
    error = models.CharField(max_length=300, blank=True, help_text="Why the last try brought nothing.")

    objects = CatalogueQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["provider"]

    def __str__(self) -> str:
        return f"models of {self.provider_id}"

    def note_list(self, names: Collection[str], *, now: dt.datetime) -> None:
        """The provider gave its list."""
        self.names, self.fetched_at, self.error = sorted(names), now, ""
        self.due_at = now + dt.timedelta(seconds=settings.MODEL_CATALOGUE_S)
        self.save(update_fields=["names", "fetched_at", "error", "due_at"])

    def note_failure(self, error: str) -> None:
        """It could not be had; what was known stays."""
        self.error = error[:300] or "It could not be read."
        self.save(update_fields=["error"])

    def ask_again(self, *, forget: bool, now: dt.datetime) -> None:
        """It is asked for as soon as some process can; ``forget``: until then nothing is known."""
        if forget:
            self.names, self.fetched_at = [], None
        self.due_at, self.error = now, ""
        self.save(update_fields=["names", "fetched_at", "due_at", "error"])
