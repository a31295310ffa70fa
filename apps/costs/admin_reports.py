"""The report of what was spent: a page under Money, its downloads, and the number on the first page."""

from __future__ import annotations

import csv
import io
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from apps.costs import frames, reports
from apps.costs.daily import daily
from apps.costs.grouping import By
from apps.costs.ledger_export import record_export
from apps.costs.models import LedgerEntry
from apps.costs.report_page import KINDS, NOUNS, ReportForm, change, chart_options, report
from apps.costs.spend_forms import Chosen, SpendForm
from apps.tenants.access import principal_of_request
from apps.tenants.roles import Permission
from portal.admin import Card, list_url
from portal.admin_site import Page, register_page
from portal.money import usd_label, usd_text

ABOUT = "What was spent, day by day, on what and for whom, against the days before."
MOST_DOWNLOADED = 10_000


def may_open(request: HttpRequest) -> bool:
    return principal_of_request(request).can_anywhere(Permission.COST_READ)


def view(request: HttpRequest) -> HttpResponseBase:
    """The page; with ``download`` in the address, its days or groups as CSV."""
    principal = principal_of_request(request)
    form = ReportForm(request.GET.dict(), principal=principal, now=timezone.now())
    download = request.GET.get("download", "")
    if not form.is_valid():
        if download:
            query = request.GET.copy()
            query.pop("download")
            return redirect(f"{request.path}?{query.urlencode()}")
        return _page(request, form, None)
    chosen, by = form.chosen(), form.cleaned_data["by"]
    if download in ("days", "groups"):
        record_export(chosen, by=principal, what=f"report: {download}")
        return _days_as_csv(chosen) if download == "days" else _groups_as_csv(chosen, by)
    found = report(chosen, by, ledger_url=list_url(LedgerEntry))
    return _page(request, form, {"report": found, "by": by, "noun": NOUNS[by].lower()})


def _page(request: HttpRequest, form: ReportForm, found: dict[str, Any] | None) -> HttpResponse:
    context = {
        **admin.site.each_context(request),
        "title": "Spending",
        "about": ABOUT,
        "form": form,
        "kinds": [name for _, name, _ in KINDS],
        "bars": chart_options("USD", stacked=True),
        "lines": chart_options("Swarms", legend=False, whole=True),
        "ledger_url": list_url(LedgerEntry),
        **(found or {}),
    }
    if found:
        chosen: Chosen = found["report"].chosen
        context["downloads"] = [
            ("Days as CSV", f"?{chosen.link(download='days')}"),
            (f"{found['noun'].capitalize()} as CSV", f"?{chosen.link(download='groups')}"),
        ]
        context["ledger_link"] = f"{list_url(LedgerEntry)}?{chosen.link(by='')}"
    return TemplateResponse(request, "admin/costs/report.html", context)


def _days_as_csv(chosen: Chosen) -> HttpResponse:
    assert chosen.frame is not None
    days = daily(chosen.filter.tenants, chosen.frame.first, chosen.frame.last)
    head = ["day", *(f"{kind}_usd" for kind, _, _ in KINDS), "total_usd", "active_swarms", "entries"]
    rows = [
        [day.day, *(usd_text(getattr(day, kind)) for kind, _, _ in KINDS), usd_text(day.total), day.active_swarms,
         day.entries]
        for day in days
    ]  # fmt: skip
    return _csv(chosen, "days", [head, *rows])


def _groups_as_csv(chosen: Chosen, by: By) -> HttpResponse:
    assert chosen.frame is not None
    frame = chosen.frame
    found = reports.grouped(chosen.filter.tenants, frame.first, frame.last, by, top=MOST_DOWNLOADED)
    head = [str(by), "name", "amount_usd", "entries", "input_tokens", "output_tokens", "days_before_usd"]
    # Of people only the pseudonym.
    rows = [
        [_text(group.key or ""), "" if by == By.USER else _text(group.label), usd_text(group.amount), group.entries,
         group.input_tokens, group.output_tokens, usd_text(group.previous)]
        for group in found.groups
    ]  # fmt: skip
    if rest := found.rest:
        rows.append(
            ["", f"{found.others} others", usd_text(rest.amount), rest.entries, rest.input_tokens, rest.output_tokens,
             usd_text(rest.previous)]
        )  # fmt: skip
    return _csv(chosen, f"by-{by}", [head, *rows])


def _text(value: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _csv(chosen: Chosen, what: str, rows: list[list[Any]]) -> HttpResponse:
    assert chosen.frame is not None
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    whose = chosen.tenant.slug if chosen.tenant else "all"
    name = f"spending-{what}-{whose}-{chosen.frame.first}-to-{chosen.frame.last}.csv"
    return HttpResponse(
        text.getvalue(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


def card(request: HttpRequest) -> Card | None:
    """What this month has cost so far, against last month up to the same day."""
    form = SpendForm({}, principal=principal_of_request(request), now=timezone.now())
    if not form.is_valid():
        return None
    chosen = form.chosen()
    assert chosen.frame is not None
    before = frames.same_days_last_month(chosen.frame)
    days = daily(chosen.filter.tenants, before.first, chosen.frame.last)
    spent, previous = (
        sum(day.total for day in days if each.first <= day.day <= each.last) for each in (chosen.frame, before)
    )
    detail = change(spent, previous, before.name)
    return Card("Spent this month", usd_label(spent), detail[:1].upper() + detail[1:], reverse("admin:costs_report"))


register_page(Page("costs_report", "costs/report/", ABOUT, view, may_open, card))
