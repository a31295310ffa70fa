"""Model providers and the regions they are reached in."""

from __future__ import annotations

from typing import ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from apps.providers import admin_secrets  # noqa: F401  (it registers what it shows)
from apps.providers.models import Provider, Region
from apps.tenants.admin_scoping import PlatformInline, PlatformModelAdmin
from portal.admin_columns import CALM, GOOD, yes_column


class RegionInline(PlatformInline):
    model = Region
    fields = ("name", "base_url", "order", "is_enabled")
    labels: ClassVar[dict[str, str]] = {"base_url": "Base URL", "is_enabled": "Enabled"}


@admin.register(Provider)
class ProviderAdmin(PlatformModelAdmin):
    about = (
        "Who serves models: agents name them as provider:model. Keys stay in the secrets backend; here are only "
        "their names. Calls go to the regions with the lowest order first."
    )
    labels: ClassVar[dict[str, str]] = {
        "secret_name": "Name of the key",
        "worker_classes": "Classes that may read it",
        "is_enabled": "Enabled",
    }
    empty_hint = "Add a provider with at least one region, so that agents can use its models."
    list_display = ("name", "kind", "region_names", "secret_name", "state")
    list_filter = ("is_enabled",)
    search_fields = ("name",)
    ordering = ("name",)
    fields = ("name", "kind", "secret_name", "worker_classes", "is_enabled")
    inlines = (RegionInline,)
    state = yes_column("is_enabled", "State", yes=("enabled", GOOD), no=("disabled", CALM))

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Provider]:
        rows: models.QuerySet[Provider] = super().get_queryset(request)
        return rows.prefetch_related("regions")

    @admin.display(description="Regions")
    def region_names(self, provider: Provider) -> str:
        names = [region.name if region.is_enabled else f"{region.name} (off)" for region in provider.regions.all()]
        return ", ".join(names) or "none: its models cannot be called"
