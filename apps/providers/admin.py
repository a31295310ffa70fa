"""Model providers and the regions they are reached in."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.providers import (
    admin_caches,  # noqa: F401  (these register what they show)
    admin_residency,  # noqa: F401
    admin_secrets,  # noqa: F401
    catalogue,
)
from apps.providers.admin_regions import ReasonForm, reviewed, state_label
from apps.providers.breaker import State
from apps.providers.models import Catalogue, HealthStatus, Provider, Region
from apps.tenants.admin_scoping import PlatformInline, PlatformModelAdmin
from portal.admin import FORM_FIELDS, admin_url, list_url
from portal.admin_columns import BAD, CALM, GOOD, NOTHING, WARN, label, moment, yes_column

TONES = {HealthStatus.HEALTHY: GOOD, HealthStatus.FAILED_OVER: WARN, HealthStatus.CRITICAL: BAD}

NAMES_SHOWN = 60
REFRESHED = (
    "A worker that holds the provider's key asks for its list of models at once. The list from before stays until the "
    "new one comes."
)


def _catalogue(provider: Provider) -> Catalogue | None:
    return getattr(provider, "catalogue", None)


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
        ("Models", {"fields": ("models_listed", "models_names")}),
        ("When a region fails", {"fields": ("patience_s", ("breaker_failures", "breaker_window_s"), "probe_every_s")}),
    )
    readonly_fields = ("health_label", "models_listed", "models_names")
    actions_detail = ("refresh_models_one",)
    inlines = (RegionInline,)
    state = yes_column("is_enabled", "State", yes=("enabled", GOOD), no=("disabled", CALM))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """With its regions, which go from here and never from pages of their own."""
        listed, counts, needed, protected = super().get_deleted_objects(objs, request)
        return listed, counts, needed - {Region._meta.verbose_name}, protected

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Provider]:
        rows: models.QuerySet[Provider] = super().get_queryset(request)
        rows = rows.select_related("catalogue")
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

    @admin.display(description="Listed")
    def models_listed(self, provider: Provider) -> SafeString | str:
        """How many there are, how old the list is, and why the last try to have it anew brought nothing."""
        known = _catalogue(provider)
        if known is None or not (known.fetched_at or known.error):
            return "not yet: a worker that holds the key asks for the list within a minute"
        count = len(known.names)
        what = f"{count:,} model{'' if count == 1 else 's'}" if known.fetched_at else "none so far"
        parts = [format_html("{} {}", what, moment(known.fetched_at)) if known.fetched_at else format_html("{}", what)]
        if known.error:
            parts.append(format_html("{} {}", label("not read anew", WARN, known.error), known.error))
        return format_html_join(" ", "{}", ((part,) for part in parts))

    @admin.display(description="Names")
    def models_names(self, provider: Provider) -> str:
        known = _catalogue(provider)
        names = known.names if known else []
        more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
        return ", ".join(names[:NAMES_SHOWN]) + more or NOTHING

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        provider = self.row_or_none(request, object_id)
        if provider is None or not self.has_change_permission(request, provider) or not provider.is_enabled:
            return []
        found: list[Any] = super().get_actions_detail(request, object_id)
        return found

    @action(description="Refresh models…", url_path="models", icon="sync")
    def refresh_models_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The page behind the button: what will happen, the reason, and the form that does it."""
        provider = self.row_or_none(request, object_id)
        if provider is None:
            return redirect(list_url(Provider))
        if not self.has_change_permission(request, provider):
            raise PermissionDenied
        form = ReasonForm(request.POST if request.method == "POST" else None)
        refusal = "" if provider.is_enabled else "It is disabled, so nobody asks it for anything. Enable it first."
        if form.is_valid() and not refusal:
            by, reason = self.principal(request), form.cleaned_data["reason"]
            catalogue.order([provider], forget=False, by=by, reason=reason, now=timezone.now())
            self.message_user(request, f"A worker asks {provider} for its models now.", messages.SUCCESS)
            return redirect(admin_url(provider))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Refresh the models of {provider}",
            "opts": self.opts,
            "act": {"effect": REFRESHED},
            "refusal": refusal,
            "form": form,
            "back": admin_url(provider),
        }
        return TemplateResponse(request, "admin/providers/act.html", context)

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
