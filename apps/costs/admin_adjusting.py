"""Correcting a ledger entry: a form, a look at what it would do, and the booking."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.costs.adjusting import LONGEST_REASON, CannotAdjust, adjust, difference_to, owed_for, verify_adjust
from apps.costs.admin_months import month_name, statement_url
from apps.costs.explaining import explain
from apps.costs.models import BudgetPeriod, Kind, LedgerEntry
from apps.costs.periods import last_statement, open_month_at
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import list_url, page_url
from portal.admin_fields import UsdField
from portal.money import usd_label, usd_text


class CorrectionForm(forms.Form):
    """What should be owed for an entry, and why."""

    owed = UsdField(
        label="What should be owed, in USD",
        help_text="Up to nine decimals. 0 takes the whole charge back.",
        error_messages={"required": "Say what should be owed. 0 takes the whole charge back."},
    )
    reason = forms.CharField(
        max_length=LONGEST_REASON,
        help_text="Stands on the correction for ever, and on the statement. No names of people.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        error_messages={"required": "Say why: whoever reads the statement will ask."},
    )


def correct_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """The form; ``do=preview`` shows what it would do, ``do=book`` does it. An entry of others leads to the list."""
    entry: LedgerEntry | None = model_admin.get_object(request, object_id)
    if entry is None:
        return redirect(list_url(LedgerEntry))
    by = model_admin.principal(request)
    if not by.can(Permission.COST_UPDATE, entry.tenant_id):
        raise PermissionDenied
    try:
        verify_adjust(entry)
    except CannotAdjust as cannot:
        model_admin.message_user(request, str(cannot), messages.ERROR)
        return redirect(page_url(LedgerEntry, entry.pk))
    form = CorrectionForm(request.POST if request.method == "POST" else None)
    preview: dict[str, Any] | None = None
    if form.is_valid():
        owed, reason = form.cleaned_data["owed"], form.cleaned_data["reason"]
        try:
            seen = _seen(request)
            if request.POST.get("do") == "book":
                made = adjust(entry, owed=owed, seen=seen, reason=reason, by=by, now=timezone.now())
                return _booked(model_admin, request, entry, made, owed)
            if request.POST.get("do") == "preview":
                preview = _preview(entry, difference_to(entry, owed=owed, seen=seen), owed, reason)
        except CannotAdjust as cannot:
            form.add_error(None, str(cannot))
    return TemplateResponse(request, "admin/costs/correct.html", _shown(model_admin, request, entry, form, preview))


def _seen(request: HttpRequest) -> int:
    try:
        return int(request.POST.get("seen", ""))
    except ValueError:
        raise CannotAdjust("What was owed when you looked did not arrive: look at it again.") from None


def _booked(model_admin: Any, request: HttpRequest, entry: LedgerEntry, made: int, owed: int) -> HttpResponse:
    text = format_html(
        'Corrected: {} USD is owed for it now, by <a href="{}" class="text-link">entry {}</a>.',
        usd_text(owed),
        page_url(LedgerEntry, made),
        made,
    )
    model_admin.message_user(request, text, messages.SUCCESS)
    return redirect(page_url(LedgerEntry, entry.pk))


def _preview(entry: LedgerEntry, difference: int, owed: int, reason: str) -> dict[str, Any]:
    tenant = Tenant.objects.get(pk=entry.tenant_id)
    month = str(open_month_at(tenant, timezone.now(), last_statement(tenant.pk)))
    periods = BudgetPeriod.objects.filter(pk__in=entry.period_ids, budget__tenant_id=entry.tenant_id)
    return {
        "owed": usd_text(owed),
        "reason": reason,
        "difference": f"{'+' if difference > 0 else '−'}{usd_text(abs(difference))}",
        "is_credit": difference < 0,
        "month": month_name(month),
        "month_url": statement_url(tenant.slug, month),
        "budgets": [
            {
                "name": period.budget.name,
                "period": period.key if len(period.key) <= 12 else "run",
                "now": usd_text(period.spent + period.overage),
                "then": usd_text(period.spent + period.overage + difference),
                "limit": usd_text(period.limit),
            }
            for period in periods.select_related("budget").order_by("pk")
        ],
    }


def _shown(
    model_admin: Any, request: HttpRequest, entry: LedgerEntry, form: CorrectionForm, preview: dict[str, Any] | None
) -> dict[str, Any]:
    owed = owed_for(entry)
    return {
        **model_admin.admin_site.each_context(request),
        "title": f"Correct entry {entry.pk}",
        "opts": model_admin.opts,
        "entry": entry,
        "entry_url": page_url(LedgerEntry, entry.pk),
        "kind": str(Kind(entry.kind).label).capitalize(),
        "when": model_admin.exactly(entry),
        "explained": explain(entry),
        "charged": usd_text(entry.amount),
        "owed": usd_text(owed),
        "owed_label": usd_label(owed),
        "seen": owed,
        "form": form,
        "preview": preview,
    }
