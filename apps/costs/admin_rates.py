"""Rates of infrastructure and storage, and the hours that were charged at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from apps.costs.models import AccruedHour, Accruing, Rate
from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import BUSY, CALM, GOOD, label, status_column, usd_column, usd_exact, when_column
from portal.money import usd_text


@admin.register(Rate)
class RateAdmin(TenantModelAdmin):
    about = (
        "What an agent-hour and a GB-month cost from a date on, for everybody or one tenant. A tenant's own rate goes "
        "first. Where no rate is in force, nothing accrues. One that is in force stays as it is: add the next one."
    )
    empty_hint = "Nothing accrues: there is no rate yet. Add one for infrastructure and one for storage."
    read_permission = Permission.COST_READ
    write_permission = Permission.COST_UPDATE
    list_display = ("kind_label", "tenant_name", "price_usd", "since", "state", "note")
    list_filter = (TenantFilter, ("kind", ChoicesDropdownFilter))
    search_fields = ("note",)
    list_select_related = ("tenant",)
    ordering = ("kind", "-effective_from", "id")
    labels: ClassVar[dict[str, str]] = {"effective_from": "In force from", "kind": "Of what", "price": "Price"}
    hints: ClassVar[dict[str, str]] = {
        "price": "USD for one agent held for one hour, or for 1,000,000,000 bytes kept for a month.",
        "effective_from": "Hours that are accrued already keep what they were charged.",
    }
    shown_as: ClassVar[dict[str, str]] = {
        "kind": "kind_label",
        "price": "price_usd",
        "effective_from": "since",
        "tenant": "tenant_name",
    }
    fieldsets = ((None, {"fields": ("kind", "tenant", "price", "effective_from", "note")}),)
    kind_label = status_column("kind", "Of what", {})
    since = when_column("effective_from", "In force from")

    @admin.display(description="Price", ordering="price")
    def price_usd(self, rate: Rate) -> str:
        """To the last digit, and for what."""
        return f"${usd_text(rate.price)} for {Accruing(rate.kind).label.split(': ')[-1]}"

    @admin.display(description="For")
    def tenant_name(self, rate: Rate) -> SafeString | str:
        return self.link(rate, rate.tenant) if rate.tenant else "every tenant"

    @admin.display(description="State")
    def state(self, rate: Rate) -> SafeString | str:
        if not rate.is_in_force(now=timezone.now()):
            return label("begins later", BUSY)
        return label("in force", GOOD) if rate.pk in rate.__dict__.get("_in_force", ()) else label("replaced", CALM)

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        prepared = super().prepared(request, rows)
        in_force = frozenset(Rate.objects.in_force(at=timezone.now()).values_list("pk", flat=True))
        for row in prepared:
            row.__dict__["_in_force"] = in_force
        return prepared

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The list; it says of what kind nothing accrues."""
        if self.has_view_permission(request):
            rows = self.get_queryset(request).filter(effective_from__lte=timezone.now())
            known = set(rows.order_by().values_list("kind", flat=True).distinct())
            for kind in Accruing:
                if known and kind not in known:
                    told = f"No rate of {kind.value} is in force: none of it is charged."
                    self.message_user(request, told, messages.WARNING)
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Only platform admins set a rate for every tenant."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "tenant" and field is not None and not self.principal(request).everything:
            field.required = True
            field.help_text = "The tenant that pays it."
        return field

    def of_tenants(self, rows: models.QuerySet[Rate], tenant_ids: Iterable[Any]) -> models.QuerySet[Rate]:
        """A tenant's own rates, and those that hold for everybody."""
        return rows.filter(models.Q(tenant=None) | models.Q(tenant_id__in=set(tenant_ids)))

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        if row is not None and row.tenant_id is None and permission is self.read_permission:
            row = None
        return super().holds(request, permission, row)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and not _is_history(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not _is_history(obj)


def _is_history(rate: Rate | None) -> bool:
    return rate is not None and rate.is_in_force(now=timezone.now())


@admin.register(AccruedHour)
class AccruedHourAdmin(ReadOnly, PlatformModelAdmin):
    about = "The hours of infrastructure and storage that are charged. Each was written with its ledger entries, once."
    empty_hint = "Nothing has accrued yet: it does every hour, once there is a rate."
    is_audited = False
    huge = True
    list_display = ("hour_start", "kind_label", "entries", "amount_usd", "made")
    list_filter = (("kind", ChoicesDropdownFilter),)
    ordering = ("-hour", "kind")
    fieldsets = ((None, {"fields": ("hour_start", "kind_label", "entries", "amount_exact", "made")}),)
    kind_label = status_column("kind", "Of what", {})
    amount_usd = usd_column("amount", "Amount")
    amount_exact = usd_exact("amount", "Amount")
    made = when_column("accrued_at", "Accrued")

    @admin.display(description="Hour from (UTC)", ordering="hour")
    def hour_start(self, row: AccruedHour) -> str:
        return f"{row.hour:%Y-%m-%d %H:%M}"
