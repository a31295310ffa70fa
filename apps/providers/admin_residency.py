"""Data residency: where the calls of a tenant may go."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest

from apps.providers.models import Region, ResidencyRule
from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter
from portal.admin_columns import link_column, when_column
from portal.notify import Channel, notify


class ResidencyRuleForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        provider, regions = cleaned.get("provider"), cleaned.get("regions")
        if provider and regions is not None:
            strange = [str(region) for region in regions if region.provider_id != provider.pk]
            if strange:
                self.add_error("regions", ValidationError(f"Not a region of {provider}: {', '.join(strange)}."))
        return cleaned


@admin.register(ResidencyRule)
class ResidencyRuleAdmin(PlatformModelAdmin):
    about = (
        "A tenant with a rule has its calls to the provider made in these regions and nowhere else, even when all of "
        "them are down: then they fail and say so. Without a rule they go wherever the provider does best."
    )
    empty_hint = "No tenant is bound to regions. Add a rule for one that is."
    form = ResidencyRuleForm
    list_display = ("tenant_link", "provider_link", "region_names", "note", "made")
    list_filter = (TenantFilter, "provider")
    search_fields = ("tenant__name", "provider__name", "note")
    list_select_related = ("tenant", "provider")
    ordering = ("tenant__name", "provider__name")
    fields = ("tenant", "provider", "regions", "note")
    tenant_link = link_column("tenant", "Tenant")
    provider_link = link_column("provider", "Provider")
    made = when_column("created_at", "Made")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ResidencyRule]:
        rows: models.QuerySet[ResidencyRule] = super().get_queryset(request)
        return rows.prefetch_related("regions")

    def choices_of(self, request: HttpRequest, model: type[models.Model]) -> models.QuerySet[Any]:
        rows = super().choices_of(request, model)
        return rows.select_related("provider") if model is Region else rows  # each is told with its provider

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        notify(Channel.REGIONS, {"provider": form.instance.provider.name})

    def delete_model(self, request: HttpRequest, obj: ResidencyRule) -> None:
        super().delete_model(request, obj)
        notify(Channel.REGIONS, {"provider": obj.provider.name})

    @admin.display(description="Regions")
    def region_names(self, rule: ResidencyRule) -> str:
        return ", ".join(region.name for region in rule.regions.all()) or "none: it may not be called"
