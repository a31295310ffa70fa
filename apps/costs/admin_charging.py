"""Where costs go: the rules of a tenant in their order, what each takes of a month, and what none takes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.costs.admin_centres import PREFILLED, shortened
from apps.costs.charging import Charging, Untaken, charging_of
from apps.costs.exports.extract import CannotExport, Extract, extract_of
from apps.costs.models import CostCentre, Kind, LedgerEntry
from apps.costs.periods import Month
from apps.costs.spend_forms import choice_field
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import list_url, page_url
from portal.admin_site import Page, register_page
from portal.money import usd_label, usd_text

ABOUT = (
    "Of all rules of a tenant, the first that matches an entry decides on its cost centre. Here they are in their "
    "order, with what each takes of a month."
)
MOST_UNTAKEN = 25
SECOND = dt.timedelta(seconds=1)
ONE_MORE = "new"
"""For a cost centre that is yet to be made."""


class ChargingForm(forms.Form):
    """Whose month. Cleaned, it has the ``extract``."""

    def __init__(self, data: Mapping[str, str], *, principal: Principal, now: dt.datetime) -> None:
        self.tenants = list(principal.tenants(Permission.COST_READ).order_by("name", "slug"))
        self.now = now
        first = {"tenant": str(self.tenants[0].pk)} if self.tenants else {}
        given = {**first, **{name: value for name, value in data.items() if value != ""}}
        super().__init__(given)
        tenants = [(str(tenant.pk), tenant.name) for tenant in self.tenants]
        self.fields["tenant"] = choice_field("Tenant", tenants, "one of the tenants you may see", required=True)
        if len(tenants) < 2:
            self.fields["tenant"].widget = forms.HiddenInput()
        self.fields["month"] = forms.CharField(
            required=False, max_length=20, widget=UnfoldAdminTextInputWidget(attrs={"type": "month"})
        )
        chosen = self._chosen(given.get("tenant", ""))
        if chosen and not given.get("month"):
            given["month"] = str(Month.of(now, chosen.zone))

    def _chosen(self, key: str) -> Tenant | None:
        return next((tenant for tenant in self.tenants if str(tenant.pk) == key), None)

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if tenant := self._chosen(given.get("tenant", "")):
            self.tenant = tenant
            try:
                self.extract: Extract = extract_of(tenant, given.get("month", ""), now=self.now)
            except CannotExport as refusal:
                self.add_error("month", str(refusal))
        return given


def may_open(request: HttpRequest) -> bool:
    return principal_of_request(request).can_anywhere(Permission.COST_READ)


def view(request: HttpRequest) -> HttpResponseBase:
    """The month; with ``rule``, the form of the cost centre that is to take what was chosen."""
    principal = principal_of_request(request)
    form = ChargingForm(request.GET.dict(), principal=principal, now=timezone.now())
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Where costs go",
        "about": ABOUT,
        "form": form,
        "no_tenant": not form.tenants,
        "centres_url": list_url(CostCentre),
    }
    if form.tenants and form.is_valid():
        if "rule" in request.GET:
            return redirect(_rule_form(form.tenant, request.GET.get("centre", ""), request.GET["rule"]))
        centres = list(CostCentre.objects.filter(tenant=form.tenant))
        may_change = principal.can(Permission.COST_UPDATE, form.tenant.pk)
        context |= {
            "tenant": form.tenant,
            "extract": form.extract,
            "target": _target_form(centres),
            "may_change": may_change,
            "may_make": may_change and not form.extract.is_frozen,
            "add_url": f"{reverse('admin:costs_costcentre_add')}?{urlencode({'tenant': form.tenant.pk})}",
            **_shown(charging_of(form.extract), form.extract, {each.code: each for each in centres}),
        }
    return TemplateResponse(request, "admin/costs/where_costs_go.html", context)


def _target_form(centres: Sequence[CostCentre]) -> forms.Form:
    """Asks for which cost centre rules are made."""
    form = forms.Form()
    choices = [(ONE_MORE, "A cost centre that is yet to be made"), *((str(each.pk), str(each)) for each in centres)]
    form.fields["centre"] = choice_field("Make rules for", choices, "one of the cost centres")
    return form


def _rule_form(tenant: Tenant, centre: str, rule: str) -> str:
    """The form of a cost centre of the tenant, with a rule filled in; that of a new one when none is chosen."""
    prefilled = {name: value for name, value in parse_qsl(rule) if name in PREFILLED}
    chosen = CostCentre.objects.filter(tenant=tenant, pk=int(centre)).first() if _is_key(centre) else None
    if chosen:
        return f"{page_url(CostCentre, chosen.pk)}?{urlencode(prefilled)}"
    return f"{reverse('admin:costs_costcentre_add')}?{urlencode({'tenant': tenant.pk, **prefilled})}"


def _is_key(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _shown(charging: Charging, extract: Extract, centres: Mapping[str, CostCentre]) -> dict[str, Any]:
    """The division in words and figures for the template."""
    never = extract.terms.never_reached()
    rules = []
    for place, each in enumerate(charging.taken):
        centre = centres.get(each.rule.centre)
        rules.append(
            {
                "place": place + 1,
                "words": shortened(each.rule),
                "code": each.rule.centre,
                "name": extract.terms.names.get(each.rule.centre, ""),
                "url": page_url(CostCentre, centre.pk) if centre else "",
                "never": never[place] + 1 if place in never else None,
                **_figures(each.entries, each.amount, charging.total),
            }
        )
    untaken = [_untaken(each, extract, charging.total) for each in charging.untaken[:MOST_UNTAKEN]]
    rest = charging.untaken[MOST_UNTAKEN:]
    return {
        "rules": rules,
        "untaken": untaken,
        "rest": {
            "groups": len(rest),
            **_figures(sum(each.entries for each in rest), sum(each.amount for each in rest), charging.total),
        }
        if rest
        else None,
        "left": _figures(charging.entries_untaken, charging.amount_untaken, charging.total),
        "total": _figures(
            sum(each.entries for each in charging.taken) + charging.entries_untaken, charging.total, charging.total
        ),
        "without_rule": [(each, page_url(CostCentre, each.pk)) for each in _without_rule(extract, centres)],
    }


def _without_rule(extract: Extract, centres: Mapping[str, CostCentre]) -> list[CostCentre]:
    used = {rule.centre for rule in extract.terms.rules}
    return [] if extract.is_frozen else [centre for code, centre in centres.items() if code not in used]


def _untaken(each: Untaken, extract: Extract, total: int) -> dict[str, Any]:
    first, last = (at.astimezone(extract.zone).date() for at in (extract.starts_at, extract.ends_at - SECOND))
    ledger = {"tenant": extract.tenant_id, "kind": each.kind, "from": first, "to": last}
    named = {name: value for name, value in (("agent", each.agent), ("model", each.model)) if value}
    # A rule of what has neither agent nor model is one of its kind.
    rule = named or {"kind": each.kind}
    return {
        "kind": Kind(each.kind).label.capitalize() if each.kind in Kind.values else each.kind,
        "agent": each.agent,
        "model": each.model,
        "ledger_url": list_url(LedgerEntry, urlencode({**ledger, **named})),
        "rule": urlencode(rule),
        **_figures(each.entries, each.amount, total),
    }


def _figures(entries: int, amount: int, total: int) -> dict[str, str]:
    share = f"{100 * amount / total:.1f} %" if total > 0 <= amount else "–"
    return {"entries": f"{entries:,}", "amount": usd_label(amount), "exact": f"{usd_text(amount)} USD", "share": share}


register_page(Page("costs_charging", "costs/where-costs-go/", ABOUT, view, may_open))
