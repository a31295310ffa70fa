"""Prices and what is reserved; what has files of its own is registered from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import FieldTextFilter

from apps.costs import (  # noqa: F401  (they register what they show)
    admin_advice,
    admin_alerts,
    admin_budgets,
    admin_centres,
    admin_charging,
    admin_exports,
    admin_external,
    admin_ledger,
    admin_periods,
    admin_prices_now,
    admin_rates,
    admin_reports,
    admin_statements,
    admin_whatif,
)
from apps.costs.models import Price, Reservation
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import (
    NOTHING,
    price_column,
    reference_column,
    short_column,
    usd_column,
    usd_exact,
    when_column,
)
from portal.admin_fields import DateRangeFilter, SuggestingTextInput

CALL_REFERENCES = {"tenant_id": "tenants.Tenant", "swarm_id": "swarms.Swarm", "task_id": "swarms.Task"}


@admin.register(Reservation)
class ReservationAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "The highest possible cost of each call in flight. It goes when the call is settled, or charged when it ends."
    )
    empty_hint = "No model call is in flight."
    is_audited = False
    read_permission = Permission.BUDGET_READ
    huge = True
    references = CALL_REFERENCES
    search_ids = ("swarm_id", "task_id", "attempt_id")
    list_display = ("call", "tenant_name", "swarm", "task", "agent", "model", "run", "amount_usd", "made", "ends")
    list_filter = (TenantFilter, ("created_at", DateRangeFilter))
    search_fields = ("agent", "model", "run")
    search_help_text = "Id of a swarm, task or attempt, name of an agent, model or run"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("call", "tenant_name", "swarm", "task", "attempt", "agent", "model", "run")}),
        ("Money", {"fields": ("amount_exact",)}),
        ("Times", {"fields": ("made", "ends")}),
    )
    call = short_column("id", "Call")
    tenant_name = reference_column("tenant_id", "Tenant")
    task = reference_column("task_id", "Task")
    attempt = short_column("attempt_id", "Attempt")
    amount_usd = usd_column("amount", "Amount")
    amount_exact = usd_exact("amount", "Amount")
    made = when_column("created_at", "Reserved")
    ends = when_column("expires_at", "Lease ends")

    @admin.display(description="Swarm")
    def swarm(self, row: Reservation) -> Any:
        """Empty for a run elsewhere, which has a name and no page."""
        return NOTHING if row.run else self._swarm(row)

    _swarm = reference_column("swarm_id", "Swarm")


@admin.register(Price)
class PriceAdmin(TenantModelAdmin):
    about = (
        "What a model costs from a date on, for everybody or one tenant. Models that are not here cost what the price "
        "book says; a model in neither is refused, never free."
    )
    empty_hint = "Add a price for a model that the price book does not know, or that you pay differently for."
    read_permission = Permission.COST_READ  # without a write permission: who sets a price can pass any budget
    list_display = ("full_name", "tenant_name", "input_usd", "output_usd", "since", "note")
    list_filter = (("provider", FieldTextFilter), ("effective_from", DateRangeFilter))
    search_fields = ("provider", "model", "note")
    list_select_related = ("tenant",)
    ordering = ("provider", "model", "-effective_from", "id")
    labels: ClassVar[dict[str, str]] = {"effective_from": "In force from"}
    hints: ClassVar[dict[str, str]] = {
        "provider": 'The part before the colon in "openai:gpt-4o".',
        "model": "The part after the colon.",
        "input_per_mtok": "USD for a million input tokens.",
        "output_per_mtok": "USD for a million output tokens.",
    }
    shown_as: ClassVar[dict[str, str]] = {
        "input_per_mtok": "input_exact",
        "output_per_mtok": "output_exact",
        "effective_from": "since",
        "tenant": "tenant_name",
    }
    fieldsets = (
        (None, {"fields": (("provider", "model"), "tenant")}),
        ("USD for a million tokens", {"fields": (("input_per_mtok", "output_per_mtok"),)}),
        (None, {"fields": ("effective_from", "note")}),
    )
    listed_models: Callable[[], Mapping[str, Sequence[str]]] | None = None
    """What providers say they offer, by provider. An upper layer, which knows them, puts it here."""
    input_usd = price_column("input_per_mtok", "Input, per million tokens")
    output_usd = price_column("output_per_mtok", "Output, per million tokens")
    input_exact = usd_exact("input_per_mtok", "Input, per million tokens")
    output_exact = usd_exact("output_per_mtok", "Output, per million tokens")
    since = when_column("effective_from", "In force from")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "model" and field is not None and self.listed_models is not None:
            names = {name for names in self.listed_models().values() for name in names}
            field.widget = SuggestingTextInput(sorted(names), {"maxlength": db_field.max_length})
        return field

    @admin.display(description="Model", ordering="model")
    def full_name(self, price: Price) -> str:
        return str(price)

    @admin.display(description="For")
    def tenant_name(self, price: Price) -> SafeString | str:
        return self.link(price, price.tenant) if price.tenant else "every tenant"

    def of_tenants(self, rows: models.QuerySet[Price], tenant_ids: Iterable[Any]) -> models.QuerySet[Price]:
        """A tenant's own prices, and those that hold for everybody."""
        return rows.filter(models.Q(tenant=None) | models.Q(tenant_id__in=set(tenant_ids)))

    def holds(self, request: HttpRequest, permission: Permission | None, row: Any = None) -> bool:
        return super().holds(request, permission, row if row is not None and row.tenant_id else None)
