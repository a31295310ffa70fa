"""What agents elsewhere have reported and reserved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from apps.costs.external_reservations import State, standings
from apps.costs.models import ExternalEvent, ExternalReservation
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import (
    BUSY,
    CALM,
    GOOD,
    NOTHING,
    WARN,
    label,
    moment,
    money,
    reference_column,
    short_column,
    usd_column,
    usd_exact,
    when_column,
)
from portal.admin_fields import DateRangeFilter

_TONES = {State.HELD: BUSY, State.SETTLED: GOOD, State.UNSETTLED: WARN, State.RELEASED: CALM}


@admin.register(ExternalEvent)
class ExternalEventAdmin(ReadOnly, TenantModelAdmin):
    about = "Costs that agents elsewhere have reported. Each is charged once, however often it is sent."
    empty_hint = "Agents that run elsewhere report what they cost with POST /api/v1/costs/events/."
    is_audited = False
    read_permission = Permission.COST_READ
    huge = True
    references = {"tenant_id": "tenants.Tenant", "entry_id": "costs.LedgerEntry"}
    list_display = ("event_id", "tenant_name", "happened", "amount_usd", "outcome", "ledger_entry", "received")
    list_filter = (TenantFilter, ("received_at", DateRangeFilter))
    search_fields = ("event_id",)
    search_help_text = "Id of an event, as it was sent"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("event_id", "tenant_name", "amount_exact", "outcome", "overage_exact", "ledger_entry")}),
        ("Times", {"fields": ("happened", "booked", "received")}),
    )
    tenant_name = reference_column("tenant_id", "Tenant")
    ledger_entry = reference_column("entry_id", "Ledger entry")
    amount_usd = usd_column("amount", "Amount")
    amount_exact = usd_exact("amount", "Amount")
    overage_exact = usd_exact("overage", "Beyond a budget")
    happened = when_column("at", "Happened")
    booked = when_column("booked_at", "Booked for")
    received = when_column("received_at", "Received")

    @admin.display(description="Outcome")
    def outcome(self, event: ExternalEvent) -> SafeString:
        if event.booked_at != event.at:
            return label("booked later", WARN, "The period it belongs to was closed: it is charged to the open one.")
        if event.overage:
            return label("over budget", WARN, "A budget that watches it had less left than it cost.")
        return label("charged", GOOD)


@admin.register(ExternalReservation)
class ExternalReservationAdmin(ReadOnly, TenantModelAdmin):
    about = "Calls that agents elsewhere have reserved money for, in flight and over, and what became of the money."
    empty_hint = "Agents that run elsewhere ask for money with POST /api/v1/costs/reservations/."
    read_permission = Permission.COST_READ
    huge = True
    references = {"tenant_id": "tenants.Tenant"}
    list_display = ("call", "tenant_name", "run", "agent", "amount_usd", "state", "charged", "lease", "made")
    list_filter = (TenantFilter, ("created_at", DateRangeFilter))
    search_fields = ("agent", "model", "run")
    search_help_text = "Id of a reservation, name of an agent, model or run"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("call", "tenant_name", "agent", "model", "run")}),
        ("Money", {"fields": ("amount_exact", "state", "charged")}),
        ("Times", {"fields": ("made", "lease")}),
    )
    call = short_column("id", "Call")
    tenant_name = reference_column("tenant_id", "Tenant")
    amount_usd = usd_column("amount", "Reserved")
    amount_exact = usd_exact("amount", "Reserved")
    made = when_column("created_at", "Made")

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        prepared = super().prepared(request, rows)
        found = standings([row.pk for row in prepared])
        for row in prepared:
            row.__dict__["_standing"] = found[row.pk]
        return prepared

    @admin.display(description="State")
    def state(self, row: ExternalReservation) -> SafeString | str:
        standing = row.__dict__.get("_standing")
        return label(standing.state.value, _TONES[standing.state]) if standing else NOTHING

    @admin.display(description="Charged")
    def charged(self, row: ExternalReservation) -> SafeString | str:
        standing = row.__dict__.get("_standing")
        return money(standing.charged if standing else None)

    @admin.display(description="Lease ends")
    def lease(self, row: ExternalReservation) -> SafeString | str:
        standing = row.__dict__.get("_standing")
        return moment(standing.expires_at if standing else None)
