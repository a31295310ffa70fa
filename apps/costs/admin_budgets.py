"""Budgets, how they stand, and what became of them period by period."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter

from apps.costs import actions, budgets
from apps.costs.models import Budget, BudgetPeriod, Scope
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import Card, ReadOnly, list_url
from portal.admin_columns import (
    BAD,
    BUSY,
    CALM,
    GOOD,
    NOTHING,
    WARN,
    label,
    link_column,
    money,
    share,
    short,
    usd_column,
    usd_exact,
    when_column,
    yes_column,
)
from portal.admin_fields import DateRangeFilter
from portal.money import usd_label

LONGEST_PERIOD = dt.timedelta(days=32)
MOST_NEAR = 500


class BudgetForm(forms.ModelForm):
    """The budget's fields; the action that saves it may refuse, and says so on the form."""

    class Meta:
        model = Budget
        fields = ("tenant", "name", "scope", "target", "period", "enforcement", "limit", "is_active", "note")

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        scope, target = given.get("scope"), (given.get("target") or "").strip()
        if scope == Scope.TENANT and target:
            self.add_error("target", "A budget of the whole tenant has no target: leave this empty.")
        if scope in (Scope.END_USER, Scope.SWARM) and target and not _is_uuid(target):
            noun = "data subject" if scope == Scope.END_USER else "swarm"
            self.add_error("target", f"Must be the id (a UUID) of a {noun}, or empty for each one separately.")
        return given


class MadeByFilter(DropdownFilter):
    """Hides, unless asked, the budgets that specs set for their own runs: there is one for every run."""

    title = "who set it"
    parameter_name = "set_by"
    all_option = None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "People"), ("runs", "Specs, for their own run"), ("all", "Anyone")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "all":
            return queryset
        lasting = queryset.lasting()
        return queryset.exclude(pk__in=lasting.values("pk")) if self.value() == "runs" else lasting


@admin.register(Budget)
class BudgetAdmin(TenantModelAdmin):
    about = (
        "Limits on spending, over a month, a day or a run in the tenant's time zone. A hard budget refuses what does "
        "not fit, to the last nano-dollar; a soft one alerts."
    )
    empty_hint = "Add a budget: without one, nothing limits what a tenant's swarms spend."
    read_permission = Permission.BUDGET_READ
    write_permission = Permission.BUDGET_UPDATE
    audits_itself = True
    form = BudgetForm
    labels: ClassVar[dict[str, str]] = {"scope": "Watches", "is_active": "Active"}
    hints: ClassVar[dict[str, str]] = {
        "target": "A data subject's id, a swarm's id or an agent's name. Empty: each one separately.",
        "limit": "USD. Lowered below what is spent or reserved, it takes nothing back: no further call fits.",
    }
    list_display = ("name", "tenant_link", "limit_usd", "how", "standing", "left", "state")
    list_filter = (
        TenantFilter,
        MadeByFilter,
        ("scope", ChoicesDropdownFilter),
        ("period", ChoicesDropdownFilter),
        ("enforcement", ChoicesDropdownFilter),
        "is_active",
    )
    search_fields = ("name", "target")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "name", "id")
    shown_as: ClassVar[dict[str, str]] = {"limit": "limit_exact"}
    standing_fields = ("standing", "spent", "reserved", "left", "period_now", "periods_link")
    fieldsets = (
        ("What it watches", {"fields": ("tenant", "name", "scope", "target")}),
        ("Limit", {"fields": ("limit", "period", "enforcement", "is_active")}),
        ("Note", {"fields": ("note",)}),
    )
    limit_usd = usd_column("limit", "Limit")
    limit_exact = usd_exact("limit", "Limit")
    tenant_link = link_column("tenant", "Tenant")
    state = yes_column("is_active", "State", yes=("active", GOOD), no=("inactive", CALM))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj:
            fixed = {"tenant": "tenant_link"}
            shown = [
                (title, {**options, "fields": [fixed.get(field, field) for field in options["fields"]]})
                for title, options in fieldsets
            ]
            return [("Now", {"fields": self.standing_fields}), *shown]
        return [
            (title, {**options, "fields": [field for field in options["fields"] if field != "is_active"]})
            for title, options in fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What a budget watches is settled when it is made: its periods have counted that."""
        return (*self.standing_fields, "tenant_link", "scope", "target", "period") if obj else self.standing_fields

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        by = self.principal(request)
        given = form.cleaned_data
        if change:
            changes = {name: given[name] for name in form.changed_data}
            actions.change_budget(Budget.objects.get(pk=obj.pk), by=by, **changes)
        else:
            made = actions.create_budget(by=by, **given)
            obj.pk, obj._state.adding = made.pk, False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its periods are the proof of what was spent: it is made inactive instead

    def prepared(self, request: HttpRequest, rows: Iterable[Any]) -> list[Any]:
        prepared = super().prepared(request, rows)
        standings = budgets.standings(prepared, now=timezone.now())
        for row in prepared:
            row.__dict__["_standing"] = standings[row.pk]
        return prepared

    @admin.display(description="Watches")
    def how(self, budget: Budget) -> SafeString:
        hard = budget.is_hard
        what = f"{budget.get_scope_display()}, {budget.get_period_display().lower()}"
        return format_html("{} {}", label("hard" if hard else "soft", BUSY if hard else CALM), what)

    @admin.display(description="Committed")
    def standing(self, budget: Budget) -> SafeString | str:
        standing = budget.__dict__.get("_standing")
        if standing is None:
            return NOTHING
        committed = standing.spent + standing.reserved
        text = f"{usd_label(committed)} of {usd_label(standing.limit)} ({standing.percent:.0f} %)"
        return share(committed, standing.limit, text)

    @admin.display(description="Remaining")
    def left(self, budget: Budget) -> SafeString | str:
        standing = budget.__dict__.get("_standing")
        return money(standing.remaining if standing else None)

    @admin.display(description="Spent")
    def spent(self, budget: Budget) -> SafeString | str:
        return money(budget.__dict__["_standing"].spent)

    @admin.display(description="Reserved by calls in flight")
    def reserved(self, budget: Budget) -> SafeString | str:
        return money(budget.__dict__["_standing"].reserved)

    @admin.display(description="Period")
    def period_now(self, budget: Budget) -> str:
        standing = budget.__dict__["_standing"]
        if not standing.of:
            return "Nothing was charged in the current period yet"
        if not standing.ends_at:
            return f"The fullest of {standing.of} runs"
        ends = standing.ends_at.astimezone(budget.tenant.zone)
        each = f"; the fullest of {standing.of}" if standing.of > 1 else ""
        return f"{standing.key}, until {ends:%Y-%m-%d %H:%M} {ends.tzname()}{each}"

    @admin.display(description="All periods")
    def periods_link(self, budget: Budget) -> SafeString | str:
        return self.link_to_list(budget, BudgetPeriod, f"budget__id__exact={budget.pk}", "How earlier ones ended")

    def card(self, request: HttpRequest) -> Card | None:
        """Budgets whose current period is nearly or wholly committed."""
        now = timezone.now()
        periods = BudgetPeriod.objects.filter(
            budget__in=self.get_queryset(request).filter(is_active=True).exclude(period="run"),
            starts_at__gte=now - LONGEST_PERIOD,
            ends_at__gt=now,
        )
        fullest: dict[Any, float] = {}
        for period in periods.fullest_first().only("budget_id", "limit", "spent", "reserved", "overage")[:MOST_NEAR]:
            fullest.setdefault(period.budget_id, period.percent)
        near = sum(percent >= 80 for percent in fullest.values())
        used_up = sum(percent >= 100 for percent in fullest.values())
        return Card(
            "Budgets near their limit",
            str(near),
            f"{used_up} used up" if used_up else "80 % or more of the current month or day",
            list_url(Budget, "is_active__exact=1"),
            BAD if used_up else WARN if near else GOOD,
        )


@admin.register(BudgetPeriod)
class BudgetPeriodAdmin(ReadOnly, TenantModelAdmin):
    about = "What was spent and is reserved of each budget in each period. Calls write it; nobody edits it."
    read_permission = Permission.BUDGET_READ
    tenant_path = "budget__tenant_id"
    is_audited = False
    huge = True
    list_display = ("period_key", "budget_link", "who", "committed", "spent_usd", "reserved_usd", "overage_usd", "ends")
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
        ("Announced", {"fields": ("exhausted",)}),
    )
    budget_link = link_column("budget", "Budget")
    limit_exact = usd_exact("limit", "Limit")
    ceiling_exact = usd_exact("ceiling", "Enforced by the database")
    spent_exact = usd_exact("spent", "Spent")
    reserved_exact = usd_exact("reserved", "Reserved by calls in flight")
    overage_exact = usd_exact("overage", "Billed beyond reservations")
    spent_usd = usd_column("spent", "Spent")
    reserved_usd = usd_column("reserved", "Reserved")
    overage_usd = usd_column("overage", "Overage")
    starts = when_column("starts_at", "Starts")
    ends = when_column("ends_at", "Ends")
    changed = when_column("updated_at", "Last charge")
    exhausted = when_column("exhausted_at", "Refused a call")

    @admin.display(description="Period", ordering="starts_at")
    def period_key(self, period: BudgetPeriod) -> SafeString | str:
        return format_html("Run {}", short(period.key)) if len(period.key) > 12 else period.key

    @admin.display(description="Of")
    def who(self, period: BudgetPeriod) -> SafeString | str:
        return short(period.holder)

    @admin.display(description="Committed")
    def committed(self, period: BudgetPeriod) -> SafeString:
        text = f"{usd_label(period.committed)} of {usd_label(period.limit)} ({period.percent:.0f} %)"
        return share(period.committed, period.limit, text)


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
