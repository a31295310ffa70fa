"""Regions as they stand, and what a person may do to them: open or close a breaker, drain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextareaWidget

from apps.providers import acts, health, switching
from apps.providers.acts import Act
from apps.providers.breaker import State
from apps.providers.directory import recent_latencies
from apps.providers.latency import quantile
from apps.providers.models import BreakerState, Region
from apps.tenants.admin_scoping import PlatformModelAdmin
from portal.admin import admin_url, list_url
from portal.admin_columns import BAD, BUSY, CALM, GOOD, NOTHING, WARN, label, link_column, moment
from portal.notify import Channel, notify

STATES = {State.CLOSED: ("closed", GOOD), State.OPEN: ("open", BAD), State.HALF_OPEN: ("half open", BUSY)}


class ReasonForm(forms.Form):
    """Why; kept in the audit trail."""

    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept in the audit trail.",
        error_messages={"required": "Say why: the reason is kept in the audit trail."},
    )


ACTS = {f"{name}_one": act for name, act in acts.ACTS.items()}


def state_label(region: Region) -> SafeString:
    """The breaker's state, with who or what put it there on hover."""
    circuit, breaker = region.circuit, getattr(region, "breaker", None)
    word, tone = STATES[circuit.state]
    cause = breaker.cause if breaker and breaker.state != BreakerState.CLOSED else ""
    return label(f"{word} by hand" if circuit.held else word, tone, cause)


@admin.register(Region)
class RegionAdmin(PlatformModelAdmin):
    about = (
        "Where a provider's models are reached, and how each region does. Add and remove regions on the provider's "
        "page; what calls do here opens and closes breakers by itself."
    )
    empty_hint = "Regions are added on their provider's page."
    list_display = ("name", "provider_link", "takes_calls", "breaker_state", "p99", "limits_text", "changed", "why")
    list_filter = ("provider", "is_draining", "breaker__state")
    search_fields = ("name", "provider__name", "base_url")
    list_select_related = ("provider", "breaker", "window")
    ordering = ("provider__name", "order", "name")
    labels: ClassVar[dict[str, str]] = {"base_url": "Base URL", "is_enabled": "Enabled"}
    fieldsets = (
        (None, {"fields": ("provider_link", "name", "base_url", "order", "is_enabled", "takes_calls")}),
        ("Limits, over all workers", {"fields": ("requests_per_minute", "tokens_per_minute", "concurrency")}),
        ("How it does", {"fields": ("breaker_state", "changed", "why", "p99", "probe", "slowed")}),
    )
    readonly_fields = ("provider_link", "takes_calls", "breaker_state", "changed", "why", "p99", "probe", "slowed")
    actions_detail = ("try_one", *ACTS)
    try_page: Callable[[Any, HttpRequest, str], HttpResponse] | None = None
    """What "Try it" opens. A call costs money, so an upper layer makes it and puts its page here."""
    provider_link = link_column("provider", "Provider")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Region, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        reviewed(obj.provider)

    @admin.display(description="Calls", ordering="is_draining")
    def takes_calls(self, region: Region) -> SafeString:
        if not region.is_enabled:
            return label("disabled", CALM)
        return label("draining", WARN) if region.is_draining else label("taken", GOOD)

    @admin.display(description="Breaker", ordering="breaker__state")
    def breaker_state(self, region: Region) -> SafeString:
        return state_label(region)

    @admin.display(description="p99 of the last calls")
    def p99(self, region: Region) -> str:
        recent = recent_latencies(region, timezone.now())
        found = quantile(recent, 0.99)
        return NOTHING if found is None else f"{found * 1000:,.0f} ms of {len(recent)} calls"

    @admin.display(description="Limits")
    def limits_text(self, region: Region) -> str:
        limits = region.limits
        told = [
            f"{number:,} {unit}"
            for number, unit in (
                (limits.requests_per_minute, "requests/min"),
                (limits.tokens_per_minute, "tokens/min"),
                (limits.concurrency, "at once"),
            )
            if number is not None
        ]
        return ", ".join(told) or "none"

    @admin.display(description="Since", ordering="breaker__since")
    def changed(self, region: Region) -> SafeString | str:
        breaker = getattr(region, "breaker", None)
        return moment(breaker.since) if breaker and breaker.cause else NOTHING

    @admin.display(description="Why")
    def why(self, region: Region) -> str:
        breaker = getattr(region, "breaker", None)
        return breaker.cause if breaker and breaker.cause else NOTHING

    @admin.display(description="Next probe")
    def probe(self, region: Region) -> SafeString | str:
        circuit = region.circuit
        if circuit.held:
            return "none: a person opened it"
        return "under way" if circuit.probe else moment(circuit.next_probe_at)

    @admin.display(description="Slowed down until")
    def slowed(self, region: Region) -> SafeString | str:
        breaker = getattr(region, "breaker", None)
        until = breaker.slowed_until if breaker else None
        return moment(until) if until and until > timezone.now() else NOTHING

    @action(description="Open breaker…", url_path="open", icon="power_off", variant=ActionVariant.DANGER)
    def open_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._act(request, object_id, acts.OPEN)

    @action(description="Close breaker…", url_path="close", icon="power")
    def close_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._act(request, object_id, acts.CLOSE)

    @action(description="Drain…", url_path="drain", icon="water_drop")
    def drain_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._act(request, object_id, acts.DRAIN)

    @action(description="Send calls again…", url_path="undrain", icon="play_circle")
    def undrain_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._act(request, object_id, acts.UNDRAIN)

    @action(description="Try it…", url_path="try", icon="network_check")
    def try_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if self.try_page is None:
            return redirect(list_url(Region))
        return self.try_page(self, request, object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons that would do something now, for people who may."""
        region = self.row_or_none(request, object_id)
        if region is None or not self.has_change_permission(request, region):
            return []
        possible = {
            f"{self.opts.app_label}_{self.opts.model_name}_{name}"
            for name, act in ACTS.items()
            if act.is_possible(region)
        }
        if self.try_page is not None:
            possible.add(f"{self.opts.app_label}_{self.opts.model_name}_try_one")
        return [each for each in super().get_actions_detail(request, object_id) if each.action_name in possible]

    def _act(self, request: HttpRequest, object_id: str, act: Act) -> HttpResponse:
        """The page behind a button: what will happen, the reason, and the form that does it."""
        region = self.row_or_none(request, object_id)
        if region is None:
            return redirect(list_url(Region))
        if not self.has_change_permission(request, region):
            raise PermissionDenied
        form = ReasonForm(request.POST if request.method == "POST" else None)
        refusal = "" if act.is_possible(region) else act.refusal
        if form.is_valid():
            try:
                act.perform(region, by=self.principal(request), reason=form.cleaned_data["reason"])
            except switching.CannotSwitch as cannot:
                self.message_user(request, str(cannot), messages.WARNING)
            else:
                self.message_user(request, f"Done: {act.title.lower()} {region}.", messages.SUCCESS)
            return redirect(admin_url(region))
        context = {
            **self.admin_site.each_context(request),
            "title": f"{act.title} {region}",
            "opts": self.opts,
            "act": act,
            "refusal": refusal,
            "form": form,
            "back": admin_url(region),
        }
        return TemplateResponse(request, "admin/providers/act.html", context)


def reviewed(provider: Any) -> None:
    """After a change by hand: the provider's health is judged anew, and every runner looks."""
    with transaction.atomic():
        health.review(provider.pk, now=timezone.now())
        notify(Channel.REGIONS, {"provider": provider.name})
