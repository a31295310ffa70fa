"""Alerts of budgets, as they were raised."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter

from apps.costs.models import BudgetAlert, Cause
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import (
    BAD,
    CALM,
    NOTHING,
    WARN,
    label,
    link_column,
    share,
    short,
    status_column,
    usd_exact,
    when_column,
)
from portal.admin_fields import DateRangeFilter
from portal.money import usd_label


class StandingFilter(DropdownFilter):
    """Whether alerts were withdrawn."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("standing", "Standing"), ("withdrawn", "Withdrawn")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "standing":
                return queryset.standing()
            case "withdrawn":
                return queryset.exclude(withdrawn_at=None)
        return queryset


@admin.register(BudgetAlert)
class BudgetAlertAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "Levels of a budget's limit that spending has reached, each once per period. A change of the budget withdraws "
        "what it makes untrue."
    )
    empty_hint = "No budget has reached one of its alert levels. They are set on the budget's page."
    read_permission = Permission.BUDGET_READ
    tenant_path = "period__budget__tenant_id"
    is_audited = False
    huge = True
    list_display = ("when", "level_label", "budget_link", "tenant_link", "period_key", "spent", "why", "state")
    list_filter = (
        TenantFilter,
        StandingFilter,
        ("cause", ChoicesDropdownFilter),
        ("period__budget__enforcement", ChoicesDropdownFilter),
        ("at", DateRangeFilter),
    )
    search_fields = ("period__budget__name", "period__key", "period__holder")
    search_help_text = "Name of a budget, key or holder of a period"
    list_select_related = ("period", "period__budget", "period__budget__tenant")
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("level_label", "why", "when", "state")}),
        ("Of", {"fields": ("budget_link", "tenant_link", "period_link", "holder")}),
        ("Then", {"fields": ("owed_exact", "limit_exact")}),
    )
    when = when_column("at", "Raised")
    budget_link = link_column("period__budget", "Budget")
    tenant_link = link_column("period__budget__tenant", "Tenant")
    period_link = link_column("period", "Period")
    why = status_column("cause", "Cause", {Cause.REFUSED: BAD})
    owed_exact = usd_exact("owed", "Spent")
    limit_exact = usd_exact("limit", "Limit")

    @admin.display(description="Level", ordering="level")
    def level_label(self, alert: BudgetAlert) -> SafeString:
        return label(f"{alert.level} %", BAD if alert.level >= 100 else WARN)

    @admin.display(description="Period", ordering="period__starts_at")
    def period_key(self, alert: BudgetAlert) -> SafeString:
        return format_html('<span class="whitespace-nowrap">{}</span>', short(alert.period.key))

    @admin.display(description="Whose")
    def holder(self, alert: BudgetAlert) -> SafeString | str:
        return short(alert.period.holder)

    @admin.display(description="Spent then")
    def spent(self, alert: BudgetAlert) -> SafeString | str:
        if not alert.limit:
            return usd_label(alert.owed) if alert.owed else NOTHING
        return share(alert.owed, alert.limit, f"{usd_label(alert.owed)} of {usd_label(alert.limit)}")

    @admin.display(description="State")
    def state(self, alert: BudgetAlert) -> SafeString | str:
        if alert.withdrawn_at is None:
            return label("stands", WARN)
        return label("withdrawn", CALM, f"{timezone.localtime(alert.withdrawn_at):%Y-%m-%d %H:%M %Z}")
