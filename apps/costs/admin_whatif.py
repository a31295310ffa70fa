"""The page that says what a past period would have cost under other choices."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.costs import whatif
from apps.costs.models import Period, Price
from apps.costs.models.rollup import Grain, UsageTotal
from apps.costs.report_page import chart_options
from apps.costs.whatif import BadScenario, Cap, Line, Outcome, Replacement, Scenario, simulate
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin_fields import UsdField
from portal.admin_site import Page, register_page
from portal.money import usd_label, usd_text

REPLACEMENTS = 3
MOST_MODELS = 200
MOST_DAYS_DRAWN = 92


class DayField(forms.DateField):
    """A day, typed or picked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}), **kwargs)


class ModelField(forms.CharField):
    """A model's name, with those that are known offered."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = {"list": "known-models", "autocomplete": "off", "placeholder": "provider:model"}
        super().__init__(required=False, max_length=200, widget=UnfoldAdminTextInputWidget(attrs=attrs), **kwargs)


class WhatIfForm(forms.Form):
    """What people may choose. Cleaned, it has the ``scenario``."""

    tenant = forms.ModelChoiceField(Tenant.objects.none(), widget=UnfoldAdminSelectWidget)
    first = DayField(label="From", help_text="A day in the tenant's time zone.")
    last = DayField(label="To", help_text="Included.")
    cap = UsdField(label="Cap", required=False, help_text="USD. Empty: none. Calls that do not fit would be refused.")
    per = forms.ChoiceField(
        label="A cap for each",
        required=False,
        choices=[(Period.MONTHLY, "month"), (Period.DAILY, "day")],
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, *, principal: Principal, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        choices: Any = self.fields["tenant"]
        choices.queryset = principal.tenants(Permission.COST_READ)
        for n in range(1, REPLACEMENTS + 1):
            self.fields[f"old_{n}"] = ModelField(label="Calls of the model")
            self.fields[f"agent_{n}"] = forms.CharField(
                label="Of the agent",
                required=False,
                max_length=100,
                widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "any", "autocomplete": "off"}),
            )
            self.fields[f"new_{n}"] = ModelField(label="Made to")

    @property
    def replacement_rows(self) -> list[list[forms.BoundField]]:
        return [[self[f"{name}_{n}"] for name in ("old", "agent", "new")] for n in range(1, REPLACEMENTS + 1)]

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        replacements = []
        for n in range(1, REPLACEMENTS + 1):
            old, new = given.get(f"old_{n}", "").strip(), given.get(f"new_{n}", "").strip()
            agent = given.get(f"agent_{n}", "").strip()
            if old and new:
                replacements.append(Replacement(old, new, agent))
            elif old or new or agent:
                self.add_error(f"old_{n}" if not old else f"new_{n}", "Say which model, and which one instead.")
        if not self.errors:
            cap = None if given.get("cap") is None else Cap(given["cap"], given.get("per") or Period.MONTHLY)
            self.scenario = Scenario(given["tenant"], given["first"], given["last"], tuple(replacements), cap)
            try:
                self.scenario.verify()
            except BadScenario as bad:
                self.add_error({"period": "last", "cap": "cap"}.get(bad.field, "new_1"), str(bad))
        return given


def known_models(principal: Principal) -> list[str]:
    """Models that visible tenants have used, and those with a price of their own."""
    used = principal.limit(UsageTotal.objects.filter(grain=Grain.MONTH).exclude(model=""), Permission.COST_READ)
    priced = Price.objects.filter(tenant=None).values_list("provider", "model")[:MOST_MODELS]
    names = set(used.order_by().values_list("model", flat=True).distinct()[:MOST_MODELS])
    return sorted(names | {f"{provider}:{model}" for provider, model in priced})


def what_if(request: HttpRequest) -> HttpResponse:
    """The form, and with it filled in the outcome; ``format=csv`` downloads it."""
    principal = principal_of_request(request)
    asked = "tenant" in request.GET
    today = timezone.localdate()
    month = today.replace(day=1)
    initial = {"first": month, "last": today, "tenant": principal.tenants(Permission.COST_READ).first()}
    form = WhatIfForm(request.GET if asked else None, principal=principal, initial=initial)
    outcome = simulate(form.scenario) if asked and form.is_valid() else None
    if outcome and request.GET.get("format") == "csv":
        return _as_csv(form.scenario, outcome)
    context = {
        **admin.site.each_context(request),
        "title": "What if",
        "about": ABOUT,
        "form": form,
        "known_models": known_models(principal),
        "bars": chart_options("USD"),
        "outcome": outcome and _shown(form.scenario, outcome),
        "csv_url": f"?{request.GET.urlencode()}&format=csv",
    }
    return TemplateResponse(request, "admin/costs/what_if.html", context)


def _as_csv(scenario: Scenario, outcome: Outcome) -> HttpResponse:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(whatif.CSV_COLUMNS)
    writer.writerows(whatif.csv_rows(outcome))
    name = f"what-if-{scenario.tenant.slug}-{scenario.first}-{scenario.last}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8", headers=headers)


def _shown(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """The outcome in words and figures for the template."""
    days = outcome.by_day()
    zone = scenario.tenant.zone
    return {
        "total": _figures(outcome.total),
        "tables": [
            ("Model", [_figures(line) for line in outcome.by_model()]),
            ("Agent", [_figures(line, "no agent") for line in outcome.by_agent()]),
            ("Day", [_figures(line) for line in days]),
        ],
        "chart": _chart(days) if 1 < len(days) <= MOST_DAYS_DRAWN else "",
        "repriced": outcome.repriced,
        "not_repriced": [(why, calls, usd_label(kept)) for why, (calls, kept) in outcome.not_repriced.items()],
        "capped": scenario.cap is not None,
        "refused_calls": outcome.refused_calls,
        "refused_amount": usd_label(outcome.refused_amount),
        "refusals": [
            (each.key, f"{each.first_at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}", each.calls, usd_label(each.amount))
            for each in outcome.refusals
        ],
        "is_empty": not outcome.cells,
    }


def _figures(line: Line, nameless: str = "–") -> dict[str, str]:
    percent = line.percent
    sign = "+" if line.difference > 0 else "−" if line.difference < 0 else ""
    return {
        "name": line.name or nameless,
        "actual": usd_label(line.actual),
        "actual_exact": usd_text(line.actual),
        "hypothetical": usd_label(line.hypothetical),
        "hypothetical_exact": usd_text(line.hypothetical),
        "difference": f"{sign}{usd_label(abs(line.difference))}",
        "difference_exact": usd_text(line.difference),
        "percent": "–" if percent is None else f"{sign}{abs(percent):.1f} %",
    }


def _chart(days: list[Line]) -> str:
    """Two bars a day, in USD, for the chart component."""

    def bars(label: str, colour: str, amounts: list[int]) -> dict[str, Any]:
        return {
            "label": label,
            "backgroundColor": f"var(--color-{colour})",
            "grouped": True,
            "maxBarThickness": 12,
            "data": [round(nano / 10**9, 6) for nano in amounts],
        }

    return json.dumps(
        {
            "labels": [dt.date.fromisoformat(day.name).strftime("%-d %b") for day in days],
            "datasets": [
                bars("Actual", "base-400", [day.actual for day in days]),
                bars("Would have been", "primary-600", [day.hypothetical for day in days]),
            ],
        }
    )


ABOUT = (
    "What a past period would have cost with other models or under a cap. Nothing is changed by asking. Calls cost the "
    "other model's price at their time, for the tokens that were used; another model might have used more or fewer."
)

register_page(
    Page(
        name="costs_what_if",
        path="costs/what-if/",
        about=ABOUT,
        view=what_if,
        may_open=lambda request: principal_of_request(request).can_anywhere(Permission.COST_READ),
    )
)
