"""Budgets, how they stand, and what that leads to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter

from apps.costs import actions
from apps.costs.admin_budget_form import BudgetForm
from apps.costs.alerting import highest_reached
from apps.costs.budgets import Standing
from apps.costs.forecasting import Outlook, outlooks
from apps.costs.models import Budget, BudgetAlert, BudgetPeriod
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import Card, list_url
from portal.admin_columns import (
    BAD,
    BUSY,
    CALM,
    GOOD,
    NOTHING,
    WARN,
    label,
    link_column,
    moment,
    money,
    share,
    short,
    usd_exact,
    yes_column,
)
from portal.money import usd_label

LONGEST_PERIOD = dt.timedelta(days=32)
MOST_NEAR = 500
HISTORY = 12
"""Periods told on a budget's page."""


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
        "target": "An end user's name or pseudonym, a swarm's id or an agent's name. Empty: each one separately.",
        "limit": "USD. Lowered below what is spent or reserved, it takes nothing back: no further call fits.",
    }
    list_display = ("name", "tenant_link", "how", "standing", "outlook", "raised", "state")
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
    shown_as: ClassVar[dict[str, str]] = {"limit": "limit_exact", "alert_levels": "levels"}
    standing_fields = (
        "standing",
        ("spent", "reserved", "left"),
        "forecast",
        ("burn_rate", "exhausts"),
        "raised",
        "period_now",
    )
    history_fields = ("history", "periods_link", "alerts_link")
    fieldsets = (
        ("What it watches", {"fields": ("tenant", "name", "scope", "target")}),
        ("Limit", {"fields": ("limit", "alert_levels", "period", "enforcement", "is_active")}),
        ("Note", {"fields": ("note",)}),
    )
    limit_exact = usd_exact("limit", "Limit")
    tenant_link = link_column("tenant", "Tenant")
    state = yes_column("is_active", "State", yes=("active", GOOD), no=("inactive", CALM))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj:
            fixed = {"tenant": "tenant_link", "scope": "watches"}
            shown = [
                (title, {**options, "fields": [fixed.get(field, field) for field in options["fields"]]})
                for title, options in fieldsets
            ]
            return [
                ("Now", {"fields": self.standing_fields}),
                *shown,
                ("Periods so far", {"fields": self.history_fields}),
            ]
        return [
            (title, {**options, "fields": [field for field in options["fields"] if field != "is_active"]})
            for title, options in fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What a budget watches is settled when it is made: its periods have counted that."""
        told = [name for each in self.standing_fields for name in ([each] if isinstance(each, str) else each)]
        told += self.history_fields
        return (*told, "tenant_link", "watches", "target", "period") if obj else told

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
        found = outlooks(prepared, now=timezone.now())
        for row in prepared:
            row.__dict__["_outlook"] = found[row.pk]
        return prepared

    @admin.display(description="Watches")
    def watches(self, budget: Budget) -> str:
        return budget.get_scope_display()

    @admin.display(description="Watches")
    def how(self, budget: Budget) -> SafeString:
        hard = budget.is_hard
        what = f"{budget.get_scope_display()}, {budget.get_period_display().lower()}"
        return format_html("{} {}", label("hard" if hard else "soft", BUSY if hard else CALM), what)

    @admin.display(description="Spent and reserved")
    def standing(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        if outlook is None:
            return NOTHING
        standing = outlook.standing
        committed = standing.spent + standing.reserved
        text = f"{usd_label(committed)} of {usd_label(standing.limit)} ({standing.percent:.0f} %)"
        bar = share(committed, standing.limit, text, **_colours(standing))
        tone = GOOD if not standing.is_near else BAD if standing.has_run_out and standing.is_hard else WARN
        detail = (
            f"{usd_label(standing.spent)} spent, {usd_label(standing.reserved)} in flight, "
            f"{usd_label(standing.remaining)} left"
        )
        return format_html(
            '<span class="flex flex-col gap-1 items-start"><span title="{}">{}</span>{}</span>',
            detail,
            bar,
            label(standing.word, tone),
        )

    @admin.display(description="Forecast")
    def outlook(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        if outlook is None:
            return NOTHING
        found = outlook.forecast
        gone = f"runs out on {found.exhausts_on:%d %b}" if found.exhausts_on else ""
        if found.spent is None:
            return format_html('<span title="{}">{}</span>', found.reason, gone or "too little history")
        return format_html("{}{}", money(found.spent), f", {gone}" if gone else "")

    @admin.display(description="Alerts raised")
    def raised(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        if outlook is None or not outlook.alerts:
            return NOTHING
        return format_html_join(
            " ",
            "{} {}",
            ((label(f"{a.level} %", BAD if a.level >= 100 else WARN), moment(a.at)) for a in outlook.alerts),
        )

    @admin.display(description="Remaining")
    def left(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        return money(outlook.standing.remaining if outlook else None)

    @admin.display(description="Spent")
    def spent(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        return money(outlook.standing.spent if outlook else None)

    @admin.display(description="Reserved by calls in flight")
    def reserved(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        return money(outlook.standing.reserved if outlook else None)

    @admin.display(description="Forecast to the end of the period")
    def forecast(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        if outlook is None:
            return NOTHING
        return outlook.forecast.reason or money(outlook.forecast.spent)

    @admin.display(description="A day costs, so far")
    def burn_rate(self, budget: Budget) -> SafeString | str:
        outlook = _outlook(budget)
        return money(outlook.forecast.per_day if outlook else None)

    @admin.display(description="Runs out on")
    def exhausts(self, budget: Budget) -> str:
        outlook = _outlook(budget)
        if outlook is None or (outlook.forecast.exhausts_on is None and outlook.forecast.reason):
            return NOTHING
        return f"{outlook.forecast.exhausts_on:%Y-%m-%d}" if outlook.forecast.exhausts_on else "it lasts"

    @admin.display(description="Alert at")
    def levels(self, budget: Budget) -> str:
        return ", ".join(f"{level} %" for level in budget.alert_levels) or "no alerts"

    @admin.display(description=f"The last {HISTORY}")
    def history(self, budget: Budget) -> SafeString | str:
        """The newest periods, with the alerts of each; made once, as the page asks for it several times."""
        if "_history" not in budget.__dict__:
            budget.__dict__["_history"] = _history(budget)
        told: SafeString | str = budget.__dict__["_history"]
        return told

    @admin.display(description="Period")
    def period_now(self, budget: Budget) -> str:
        outlook = _outlook(budget)
        if outlook is None:
            return NOTHING
        standing = outlook.standing
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

    @admin.display(description="All alerts")
    def alerts_link(self, budget: Budget) -> SafeString | str:
        query = f"period__budget__id__exact={budget.pk}"
        return self.link_to_list(budget, BudgetAlert, query, "What was raised, and withdrawn")

    def card(self, request: HttpRequest) -> Card | None:
        """Budgets that reached one of their alert levels in the current period."""
        now = timezone.now()
        periods = BudgetPeriod.objects.filter(
            budget__in=self.get_queryset(request).filter(is_active=True).exclude(period="run"),
            starts_at__gte=now - LONGEST_PERIOD,
            ends_at__gt=now,
        )
        amounts = ("limit", "spent", "reserved", "overage", "exhausted_at")
        near: dict[Any, bool] = {}
        for period in periods.fullest_first().select_related("budget").only(*amounts, *_RULES)[:MOST_NEAR]:
            owed = period.spent + period.overage
            if period.budget.is_hard and (owed >= period.limit or period.exhausted_at):
                near[period.budget_id] = True
            elif highest_reached(period.budget.alert_levels, owed=owed, limit=period.limit):
                near.setdefault(period.budget_id, False)
        used_up = sum(near.values())
        return Card(
            "Budgets near their limit",
            str(len(near)),
            f"{used_up} used up" if used_up else "reached an alert level in the current month or day",
            list_url(Budget, "is_active__exact=1"),
            BAD if used_up else WARN if near else GOOD,
        )


_RULES = ("budget__alert_levels", "budget__enforcement")


def _outlook(budget: Budget) -> Outlook | None:
    """What was prepared for the page; none on the page of a new budget."""
    found: Outlook | None = budget.__dict__.get("_outlook")
    return found


def _history(budget: Budget) -> SafeString | str:
    """A table of the newest periods. Two queries."""
    raised = models.Prefetch("alerts", BudgetAlert.objects.standing().order_by("level"), "raised")
    periods = list(budget.periods.order_by("-starts_at", "-id").prefetch_related(raised)[:HISTORY])
    if not periods:
        return "Nothing was charged to it yet."
    rows = [
        [
            short(period.key),
            short(period.holder),
            share(period.committed, period.limit, f"{usd_label(period.committed)} of {usd_label(period.limit)}"),
            ", ".join(f"{alert.level} %" for alert in period.raised) or NOTHING,  # type: ignore[attr-defined]
            moment(period.ends_at),
        ]
        for period in periods
    ]
    each = any(period.holder for period in periods)
    headers = ["Period", "Whose", "Spent and reserved", "Alerts", "Ends"]
    keep = [place for place, name in enumerate(headers) if each or name != "Whose"]
    table = {"headers": [headers[n] for n in keep], "rows": [[row[n] for n in keep] for row in rows]}
    return render_to_string("unfold/components/table.html", {"table": table})


def _colours(standing: Standing) -> dict[str, float]:
    """The bar's colour says what the word beside it says: orange from the first alert on, red when used up."""
    return {"warn_at": 0.0 if standing.is_near else 9e9, "bad_at": 0.0 if standing.has_run_out else 9e9}
