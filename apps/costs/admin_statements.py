"""Statements: every month of every tenant in one list, the page of one, and its printed form."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, re_path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe

from apps.costs import admin_closing, months
from apps.costs.admin_exports import export_url
from apps.costs.admin_months import (
    Asked,
    asked_month,
    by_clocks_of,
    month_name,
    name_of_actor,
    statement_url,
)
from apps.costs.exports.formats import Format
from apps.costs.models import LedgerEntry, Statement
from apps.costs.months import DRAFT, MonthOf, Months
from apps.costs.periods import Month
from apps.costs.spend_forms import choice_field
from apps.costs.statement_contents import Contents, corrections_in, unsettled_in
from apps.costs.statement_page import exactly, grouped, sums
from apps.costs.statements import CannotClose, verify_close
from apps.tenants.access import principal_of_request
from apps.tenants.admin_scoping import TenantModelAdmin
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import Card, ReadOnly, list_url, page_url
from portal.admin_columns import BUSY, CALM, GOOD, WARN, label, moment, money
from portal.money import usd_label, usd_text

MONTHS_PER_PAGE = 50
LINES_PER_PAGE = 100
MOST_CORRECTIONS = 50
MOST_PRINTED = 2000
"""Lines on paper, some fifty sheets; the exports have all."""

LABELS = {DRAFT: ("draft", CALM), "closing": ("being added up", BUSY), "closed": ("closed", GOOD)}
READY, CLOSED = "ready", "closed"


class MonthsForm(forms.Form):
    """Which months the list shows. Bound to a query string; empty fields choose nothing."""

    def __init__(self, data: Mapping[str, Any], tenants: Sequence[Tenant], years: Sequence[int]) -> None:
        super().__init__(data)
        slugs = [(tenant.slug, tenant.name) for tenant in tenants]
        states = [(READY, "Can be closed now"), (DRAFT, "Drafts"), (CLOSED, "Closed")]
        found = [(str(year), str(year)) for year in years]
        self.fields["tenant"] = choice_field("Tenant", [("", "All of them"), *slugs], "one of the tenants you may see")
        if len(tenants) < 2:
            self.fields["tenant"].widget = forms.HiddenInput()
        self.fields["year"] = choice_field("Year", [("", "Any"), *found], "one of the years on offer")
        self.fields["state"] = choice_field("State", [("", "Any"), *states], "one of the states on offer")


@admin.register(Statement)
class StatementAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "What a tenant owes for a month. Once a month is over, close it: its entries and its statement never change "
        "again, and what is found to be wrong later is corrected in an open month."
    )
    read_permission = Permission.COST_READ
    list_select_related = ("tenant",)
    fields = ("period",)  # its page is one of our own

    def get_urls(self) -> list[URLPattern]:
        month = r"^(?P<slug>[-\w]+)/(?P<period>\d{4}-\d\d)/"
        pages = {"page": ("", self.month), "close": ("close/", admin_closing.close_page), "print": ("print/", printed)}
        own = [
            re_path(f"{month}{end}$", self.admin_site.admin_view(view), name=f"costs_statement_{name}")
            for name, (end, view) in pages.items()
        ]
        return [*own, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """All months of the tenants whose costs the person may read: drafts, then statements, newest first."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        principal, now = principal_of_request(request), timezone.now()
        tenants = list(principal.tenants(Permission.COST_READ).order_by("name", "slug"))
        drafts = months.drafts(tenants, now=now)
        closed = Statement.objects.visible_to(principal)
        form = MonthsForm(request.GET, tenants, _years(drafts, closed, now))
        ready = [row for row in drafts if row.can_close]
        found: Any = _chosen(form.cleaned_data, drafts, ready, closed) if form.is_valid() else Months([], closed.none())
        page = Paginator(found, MONTHS_PER_PAGE).get_page(request.GET.get("page"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Statements",
            "about": self.about,
            "opts": self.opts,
            "form": form,
            "page": page,
            "rows": [_row(row, principal.can(Permission.COST_UPDATE, row.tenant.pk)) for row in page],
            "ready": len(ready),
            "ready_url": f"?{urlencode({'state': READY})}",
            "is_filtered": any(request.GET.get(name) for name in form.fields),
            "has_drafts": any(row.status == DRAFT for row in page),
            "link": urlencode({name: request.GET[name] for name in form.fields if request.GET.get(name)}),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/costs/statements.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The page of the month, for whoever comes by the statement's id: the audit trail does."""
        statement = self.row_or_none(request, object_id)
        if statement is None:
            response: HttpResponse = super().change_view(request, object_id, form_url, extra_context)
            return response
        return self.month(request, statement.tenant.slug, statement.period)

    @method_decorator(require_safe)
    def month(self, request: HttpRequest, slug: str, period: str) -> HttpResponse:
        """The page of a month, closed or not."""
        asked = asked_month(request, slug, period)
        if asked is None:
            return redirect(list_url(Statement))
        context = {
            **self.admin_site.each_context(request),
            "title": asked.name,
            "about": self.about,
            "opts": self.opts,
            "list_url": list_url(Statement),
            "print_url": statement_url(slug, period, "print"),
            "ledger_url": _ledger_url(asked),
            "downloads": [(format.label, export_url(asked.tenant, period, format)) for format in Format],
            "audit_url": _audit_url(asked),
            **_head(asked),
        }
        if not context["is_closing"]:
            contents = Contents(asked.extract, asked.statement)
            lines: Any = contents
            page = Paginator(lines, LINES_PER_PAGE).get_page(request.GET.get("page"))
            context |= sums(contents)
            context |= {"page": page, "groups": grouped(contents, list(page))}
            context["corrections"] = _corrections(asked)
            if asked.statement is None:
                context |= _closing(asked)
        return TemplateResponse(request, "admin/costs/statement.html", context)

    def card(self, request: HttpRequest) -> Card | None:
        """Months that are over and not closed."""
        tenants = list(principal_of_request(request).tenants(Permission.COST_READ))
        ready = sum(not each.refusal for each in months.open_months(tenants, now=timezone.now()))
        url = list_url(Statement, urlencode({"state": READY}) if ready else "")
        detail = "over, and open for corrections until closed" if ready else "None is over and still open"
        return Card("Months to close", f"{ready:,}", detail, url, WARN if ready else GOOD)


# -- the list ----------------------------------------------------------------------------------------------------------


def _years(drafts: Sequence[MonthOf], closed: Any, now: dt.datetime) -> list[int]:
    """The years in which there is a month, latest first. One query."""
    first = closed.order_by("period").values_list("period", flat=True).first()
    known = {int(row.period[:4]) for row in drafts}
    earliest = min([*known, int(first[:4]) if first else now.year])
    return list(range(max([*known, now.year]), earliest - 1, -1))


def _chosen(given: Mapping[str, str], drafts: Sequence[MonthOf], ready: Sequence[MonthOf], closed: Any) -> Months:
    if slug := given["tenant"]:
        closed = closed.filter(tenant__slug=slug)
    if year := given["year"]:
        closed = closed.filter(period__startswith=f"{year}-")
    if given["state"] in (READY, DRAFT):
        closed = closed.none()
    rows = {READY: ready, CLOSED: []}.get(given["state"], drafts)
    return Months([r for r in rows if slug in ("", r.tenant.slug) and (r.period[:4] == year or not year)], closed)


def _row(row: MonthOf, may_close: bool) -> dict[str, Any]:
    return {
        "url": statement_url(row.tenant.slug, row.period),
        "close_url": statement_url(row.tenant.slug, row.period, "close") if row.can_close and may_close else "",
        "period": row.period,
        "month": month_name(row.period),
        "tenant": row.name,
        "state": label(*LABELS[row.status]),
        "amount": NOT_YET if row.status == "closing" else money(row.amount),
        "entries": NOT_YET if row.status == "closing" else f"{row.entries:,}",
        "can_close": row.can_close,
        "refusal": row.refusal,
        "closed": moment(row.closed_at) if row.closed_at else "",
    }


NOT_YET = "…"


# -- a month -----------------------------------------------------------------------------------------------------------


def _head(asked: Asked) -> dict[str, Any]:
    """What is said above the figures, on the screen and on paper."""
    extract, statement = asked.extract, asked.statement
    status = statement.status if statement else DRAFT
    return {
        "name": asked.name,
        "month": month_name(extract.period),
        "period": extract.period,
        "tenant_name": extract.tenant_name,
        "time_zone": extract.time_zone,
        "starts": by_clocks_of(extract, extract.starts_at),
        "ends": by_clocks_of(extract, extract.ends_at),
        "state": label(*LABELS[status]),
        "is_closing": status == "closing",
        "is_closed": status == "closed",
        "statement_id": extract.statement_id,
        "closed_by": name_of_actor(statement.closed_by_kind, statement.closed_by) if statement else "",
        "closed_at": by_clocks_of(extract, statement.closed_at) if statement and statement.closed_at else "",
        "closed_moment": moment(statement.closed_at) if statement else "",
        "since": moment(statement.closing_since) if statement else "",
        "is_over": extract.ends_at <= timezone.now(),
        "page_url": asked.url,
    }


def _closing(asked: Asked) -> dict[str, Any]:
    """Whether a draft can be closed, and what to know before."""
    now = timezone.now()
    try:
        verify_close(asked.tenant, Month.parse(asked.extract.period), now=now)
        refusal = ""
    except CannotClose as cannot:
        refusal = str(cannot)
    unsettled, amount = unsettled_in(asked.extract)
    return {
        "refusal": refusal,
        "close_url": statement_url(asked.tenant.slug, asked.extract.period, "close") if asked.may_close else "",
        "unsettled": unsettled,
        "unsettled_amount": usd_label(amount),
    }


def _corrections(asked: Asked) -> dict[str, Any]:
    found = corrections_in(asked.extract, asked.tenant, most=MOST_CORRECTIONS)
    return {
        "count": found.count,
        "amount": usd_label(found.amount),
        "exact": usd_text(found.amount),
        "more": found.count - len(found.first),
        "rows": [
            {
                "id": each.id,
                "url": page_url(LedgerEntry, each.id),
                "at": by_clocks_of(asked.extract, each.at),
                "amount": usd_label(each.amount),
                "exact": usd_text(each.amount),
                "reason": each.reason,
                "of_id": each.of_id,
                "of_url": page_url(LedgerEntry, each.of_id),
                "of_period": each.of_period,
                "of_period_url": statement_url(asked.tenant.slug, each.of_period),
            }
            for each in found.first
        ],
    }


def _ledger_url(asked: Asked) -> str:
    """The ledger, narrowed to the days of the month by the tenant's calendar."""
    first = asked.extract.starts_at.astimezone(asked.tenant.zone).date()
    last = (asked.extract.ends_at - dt.timedelta(microseconds=1)).astimezone(asked.tenant.zone).date()
    return list_url(LedgerEntry, urlencode({"tenant": asked.tenant.pk, "from": first, "to": last}))


def _audit_url(asked: Asked) -> str:
    if asked.statement is None:
        return ""
    return page_url(Statement, asked.statement.pk).replace("/change/", "/history/")


@require_safe
def printed(request: HttpRequest, slug: str, period: str) -> HttpResponse:
    """A month as a document: for paper, or to be forwarded."""
    asked = asked_month(request, slug, period)
    if asked is None:
        return redirect(list_url(Statement))
    contents = Contents(asked.extract, asked.statement)
    lines = contents[:MOST_PRINTED]
    write = exactly(contents, lines)
    context = {
        **_head(asked),
        **sums(contents, write),
        "slug": asked.tenant.slug,
        "groups": grouped(contents, lines, write),
        "left_out": len(contents) - len(lines),
        "corrections": _corrections(asked),
        "printed_at": by_clocks_of(asked.extract, timezone.now()),
    }
    return TemplateResponse(request, "admin/costs/statement_print.html", context)
