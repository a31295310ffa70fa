"""Model providers and the regions they are reached in."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.providers import admin_caches, admin_residency, admin_secrets  # noqa: F401  (they register what they show)
from apps.providers.admin_regions import reviewed, state_label
from apps.providers.breaker import State
from apps.providers.models import HealthStatus, Provider, Region
from apps.tenants.admin_scoping import PlatformInline, PlatformModelAdmin
from portal.admin import FORM_FIELDS, admin_url
from portal.admin_columns import BAD, CALM, GOOD, NOTHING, WARN, label, yes_column

TONES = {HealthStatus.HEALTHY: GOOD, HealthStatus.FAILED_OVER: WARN, HealthStatus.CRITICAL: BAD}


class RegionInline(PlatformInline):
    model = Region
    fields = ("name", "base_url", "order", "is_enabled", "state", "more")
    readonly_fields = ("state", "more")
    labels: ClassVar[dict[str, str]] = {"base_url": "Base URL", "is_enabled": "Enabled"}

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Region]:
        rows: models.QuerySet[Region] = super().get_queryset(request)
        return rows.select_related("provider", "breaker")

    @admin.display(description="Breaker")
    def state(self, region: Region) -> SafeString | str:
        return NOTHING if region._state.adding else state_label(region)

    @admin.display(description="Limits and acts")
    def more(self, region: Region) -> SafeString | str:
        if region._state.adding:
            return "once it is saved"
        return format_html('<a href="{}" class="text-link">Its page</a>', admin_url(region))


@admin.register(Provider)
class ProviderAdmin(PlatformModelAdmin):
    about = (
        "Who serves models: agents name them as provider:model. Keys stay in the secrets backend; here are only "
        "their names. Calls go to the live region that answers fastest, and on to the next when it fails; regions of a "
        "lower order are preferred."
    )
    labels: ClassVar[dict[str, str]] = {
        "secret_name": "Name of the key",
        "worker_classes": "Classes that may read it",
        "is_enabled": "Enabled",
        "patience_s": "Patience, in seconds",
        "breaker_failures": "Failures",
        "breaker_window_s": "Window, in seconds",
        "probe_every_s": "Probe every, in seconds",
    }
    formfield_overrides: ClassVar[dict[Any, Any]] = {**FORM_FIELDS, ArrayField: {"widget": UnfoldAdminTextInputWidget}}
    empty_hint = "Add a provider with at least one region, so that agents can use its models."
    list_display = ("name", "kind", "health_label", "region_names", "secret_name", "state")
    list_filter = ("is_enabled", "health")
    search_fields = ("name",)
    ordering = ("name",)
    fieldsets = (
        (None, {"fields": ("name", "kind", "secret_name", "worker_classes", "is_enabled", "health_label")}),
        ("When a region fails", {"fields": ("patience_s", ("breaker_failures", "breaker_window_s"), "probe_every_s")}),
    )
    readonly_fields = ("health_label",)
    inlines = (RegionInline,)
    state = yes_column("is_enabled", "State", yes=("enabled", GOOD), no=("disabled", CALM))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """With its regions, which go from here and never from pages of their own."""
        listed, counts, needed, protected = super().get_deleted_objects(objs, request)
        return listed, counts, needed - {Region._meta.verbose_name}, protected

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Provider]:
        rows: models.QuerySet[Provider] = super().get_queryset(request)
        return rows.prefetch_related(models.Prefetch("regions", Region.objects.select_related("breaker")))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        reviewed(form.instance)

    @admin.display(description="Health", ordering="health")
    def health_label(self, provider: Provider) -> SafeString | str:
        if provider._state.adding:
            return NOTHING
        word = provider.get_health_display()
        text = f"{word} to {provider.serving}" if provider.serving else word
        return label(text, TONES[HealthStatus(provider.health)], f"since {provider.health_since:%Y-%m-%d %H:%M} UTC")

    @admin.display(description="Regions")
    def region_names(self, provider: Provider) -> str:
        names = [f"{region.name}{_remark(region)}" for region in provider.regions.all()]
        return ", ".join(names) or "none: its models cannot be called"


def _remark(region: Region) -> str:
    if not region.is_enabled:
        return " (off)"
    if region.is_draining:
        return " (draining)"
    return "" if region.circuit.state is State.CLOSED else f" ({region.circuit.state.value.replace('_', ' ')})"
