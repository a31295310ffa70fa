"""The prices in force: what each model that a tenant used is charged at, and where that price comes from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils import timezone

from apps.costs import price_sources, reports
from apps.costs.grouping import By
from apps.costs.models import LedgerEntry, Price
from apps.costs.price_sources import Priced
from apps.costs.prices import ModelPrice, PriceTier
from apps.costs.spend_forms import choice_field, day_field, text_field
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import list_url, page_url
from portal.admin_site import Page, register_page
from portal.money import usd_label, usd_text

ABOUT = "What each model in use is charged at now or on a day, and whether that price was set here or is published."
LOOKS_BACK = dt.timedelta(days=89)
MOST_MODELS = 200


class PricesForm(forms.Form):
    """For which tenant, on which day, and maybe a model of which nothing was used yet."""

    def __init__(self, data: Mapping[str, str], *, principal: Principal, now: dt.datetime) -> None:
        self.tenants = list(principal.tenants(Permission.COST_READ).order_by("name", "slug"))
        self.now = now
        first = {"tenant": str(self.tenants[0].pk)} if self.tenants else {}
        super().__init__({**first, **{name: value for name, value in data.items() if value != ""}})
        tenants = [(str(tenant.pk), tenant.name) for tenant in self.tenants]
        self.fields["tenant"] = choice_field("Tenant", tenants, "one of the tenants you may see", required=True)
        if len(tenants) < 2:
            self.fields["tenant"].widget = forms.HiddenInput()
        self.fields["on"] = day_field("On the day")
        self.fields["model"] = text_field("Any model", "provider:model")

    @property
    def tenant(self) -> Tenant:
        return next(tenant for tenant in self.tenants if str(tenant.pk) == self.cleaned_data["tenant"])

    @property
    def today(self) -> dt.date:
        return self.now.astimezone(self.tenant.zone).date()

    @property
    def at(self) -> dt.datetime:
        """Now, or the first moment of the day asked for, by the tenant's clocks."""
        day = self.cleaned_data["on"]
        return self.now if day in (None, self.today) else dt.datetime.combine(day, dt.time(), self.tenant.zone)


def may_open(request: HttpRequest) -> bool:
    return principal_of_request(request).can_anywhere(Permission.COST_READ)


def view(request: HttpRequest) -> HttpResponseBase:
    form = PricesForm(request.GET.dict(), principal=principal_of_request(request), now=timezone.now())
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Prices in force",
        "about": f"{ABOUT} USD for a million tokens.",
        "form": form,
        "published": price_sources.published_version(),
        "prices_url": list_url(Price),
        "no_tenant": not form.tenants,
    }
    if form.tenants and form.is_valid():
        used = reports.grouped([form.tenant.pk], form.today - LOOKS_BACK, form.today, By.MODEL, top=MOST_MODELS)
        spent = {group.key: group.amount for group in used.groups if group.key}
        asked = form.cleaned_data["model"]
        found = price_sources.priced([*spent, *([asked] if asked else [])], tenant_id=form.tenant.pk, at=form.at)
        # What was asked for comes first.
        found.sort(key=lambda each: each.model != asked)
        context |= {
            "tenant": form.tenant,
            "at": _moment(form.at, form.tenant),
            "lines": [_line(each, spent.get(each.model), form) for each in found],
        }
    return TemplateResponse(request, "admin/costs/prices_now.html", context)


def _line(found: Priced, spent: int | None, form: PricesForm) -> dict[str, Any]:
    override = found.override
    days = {"from": form.today - LOOKS_BACK, "to": form.today}
    ledger = urlencode({"tenant": form.tenant.pk, "model": found.model, **days})
    return {
        "model": found.model,
        "price": _price(found.price) if found.price else None,
        "why_not": found.why_not,
        "source": _source(override),
        "url": page_url(Price, override.pk) if override else "",
        "since": _moment(override.effective_from, form.tenant) if override else "",
        "note": override.note if override else "",
        "coming": _coming(found.coming, form.tenant) if found.coming else "",
        "spent": usd_label(spent) if spent is not None else "",
        "ledger_url": list_url(LedgerEntry, ledger) if spent is not None else "",
    }


def _price(price: ModelPrice) -> dict[str, Any]:
    rates = price.rates(0)
    return {
        "input": f"${usd_text(rates.input_per_mtok)}",
        "read": f"${usd_text(rates.cache_read_per_mtok)}",
        "written": f"${usd_text(rates.cache_write_per_mtok)}",
        "output": f"${usd_text(rates.output_per_mtok)}",
        "tiers": [_tier(tier) for tier in price.tiers],
    }


def _tier(tier: PriceTier) -> str:
    return (
        f"A call of more than {tier.above:,} input tokens: ${usd_text(tier.input_per_mtok)} input, "
        f"${usd_text(tier.output_per_mtok)} output, for all of its tokens"
    )


def _source(override: Price | None) -> str:
    if override is None:
        return "Published"
    return "Set for this tenant" if override.tenant_id else "Set for every tenant"


def _coming(row: Price, tenant: Tenant) -> str:
    prices = f"${usd_text(row.input_per_mtok)} input, ${usd_text(row.output_per_mtok)} output"
    return f"From {_moment(row.effective_from, tenant)}: {prices}"


def _moment(at: dt.datetime, tenant: Tenant) -> str:
    """A time as the tenant's clocks show it."""
    return f"{at.astimezone(tenant.zone):%-d %b %Y %H:%M %Z}"


register_page(Page("costs_prices_now", "costs/prices-in-force/", ABOUT, view, may_open))
