"""Periods of budgets: what was spent in each."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter

from apps.costs.models import BudgetAlert, BudgetPeriod
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import link_column, share, short, usd_column, usd_exact, when_column
from portal.admin_fields import DateRangeFilter
from portal.money import usd_label


@admin.register(BudgetPeriod)
class BudgetPeriodAdmin(ReadOnly, TenantModelAdmin):
    about = "What was spent and is reserved of each budget in each period. Calls write it; nobody edits it."
    read_permission = Permission.BUDGET_READ
    tenant_path = "budget__tenant_id"
    is_audited = False
    huge = True
    list_display = ("period_key", "budget_link", "who", "committed", "spent_usd", "overage_usd", "ends")
    list_filter = (TenantFilter, ("budget__enforcement", ChoicesDropdownFilter), ("starts_at", DateRangeFilter))
    search_fields = ("budget__name", "key", "holder")
    list_select_related = ("budget", "budget__tenant")
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("budget_link", "period_key", "who", "starts", "ends", "changed")}),
        (
            "Money",
            {"fields": ("committed", "limit_exact", "ceiling_exact", "spent_exact", "reserved_exact", "overage_exact")},
        ),
        ("Announced", {"fields": ("exhausted", "alerts_link")}),
    )
    budget_link = link_column("budget", "Budget")
    limit_exact = usd_exact("limit", "Limit")
    ceiling_exact = usd_exact("ceiling", "Enforced by the database")
    spent_exact = usd_exact("spent", "Spent")
    reserved_exact = usd_exact("reserved", "Reserved by calls in flight")
    overage_exact = usd_exact("overage", "Billed beyond reservations")
    spent_usd = usd_column("spent", "Spent")
    overage_usd = usd_column("overage", "Overage")
    starts = when_column("starts_at", "Starts")
    ends = when_column("ends_at", "Ends")
    changed = when_column("updated_at", "Last charge")
    exhausted = when_column("exhausted_at", "Refused a call")

    @admin.display(description="Alerts")
    def alerts_link(self, period: BudgetPeriod) -> SafeString | str:
        return self.link_to_list(period, BudgetAlert, f"period__id__exact={period.pk}", "What was raised in it")

    @admin.display(description="Period", ordering="starts_at")
    def period_key(self, period: BudgetPeriod) -> SafeString | str:
        key = format_html("Run {}", short(period.key)) if len(period.key) > 12 else period.key
        return format_html('<span class="whitespace-nowrap">{}</span>', key)

    @admin.display(description="Of")
    def who(self, period: BudgetPeriod) -> SafeString | str:
        return short(period.holder)

    @admin.display(description="Committed")
    def committed(self, period: BudgetPeriod) -> SafeString:
        text = f"{usd_label(period.committed)} of {usd_label(period.limit)} ({period.percent:.0f} %)"
        return share(period.committed, period.limit, text)
