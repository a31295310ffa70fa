"""The page that closes a month: what that does, what to know before, and the form that does it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.audit.models import AuditEntry
from apps.costs.admin_months import Asked, asked_month, by_clocks_of
from apps.costs.models import Statement
from apps.costs.periods import Month
from apps.costs.statement_contents import owed_in, unsettled_in
from apps.costs.statements import CannotClose, close, verify_close
from portal.admin import list_url
from portal.money import usd_label, usd_text


class CloseForm(forms.Form):
    """The month, typed: nobody closes one by a slip."""

    confirm = forms.CharField(max_length=20)

    def __init__(self, data: Any, *, period: str) -> None:
        super().__init__(data)
        self.period = period
        field = self.fields["confirm"]
        field.label = f"Type {period} to confirm"
        field.widget = UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "placeholder": period})
        field.error_messages["required"] = f"Type {period}: a closed month cannot be opened again."

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"].strip()
        if typed != self.period:
            raise ValidationError(f"“{typed}” is not {self.period}, the month that would be closed.")
        return typed


def close_page(request: HttpRequest, slug: str, period: str) -> HttpResponse:
    """Asks whether a month is to be closed; POST closes it. What is closed already leads to its statement."""
    asked = asked_month(request, slug, period)
    if asked is None:
        return redirect(list_url(Statement))
    if not asked.may_close:
        raise PermissionDenied
    if asked.statement is not None:
        messages.info(request, f"{asked.name}, is {asked.statement.get_status_display().lower()} already.")
        return redirect(asked.url)
    form = CloseForm(request.POST if request.method == "POST" else None, period=period)
    refusal = _refusal(asked)
    if form.is_valid() and not refusal:
        try:
            statement = close(asked.tenant, Month.parse(period), by=asked.by, now=timezone.now())
        except CannotClose as cannot:
            refusal = str(cannot)
            if Statement.objects.filter(tenant=asked.tenant, period=period).exists():
                messages.info(request, refusal)
                return redirect(asked.url)
        else:
            messages.success(
                request,
                f"{asked.name}, is closed: {usd_text(statement.total)} USD in {statement.entries:,} "
                f"entr{'y' if statement.entries == 1 else 'ies'}.",
            )
            return redirect(asked.url)
    return TemplateResponse(request, "admin/costs/close.html", _shown(request, asked, form, refusal))


def _refusal(asked: Asked) -> str:
    try:
        verify_close(asked.tenant, Month.parse(asked.extract.period), now=timezone.now())
    except CannotClose as cannot:
        return str(cannot)
    return ""


def _shown(request: HttpRequest, asked: Asked, form: CloseForm, refusal: str) -> dict[str, Any]:
    extract = asked.extract
    amount, entries = owed_in(extract)
    unsettled, charged = unsettled_in(extract)
    # An export fails only when it is not the file that it was before.
    failed = AuditEntry.objects.filter(tenant_id=asked.tenant.pk, action="cost:export", success=False)
    return {
        **admin.site.each_context(request),
        "title": f"Close {asked.name}",
        "opts": Statement._meta,
        "name": asked.name,
        "period": extract.period,
        "page_url": asked.url,
        "starts": by_clocks_of(extract, extract.starts_at),
        "ends": by_clocks_of(extract, extract.ends_at),
        "total": usd_label(amount),
        "total_exact": usd_text(amount),
        "entries": entries,
        "unsettled": unsettled,
        "unsettled_amount": usd_label(charged),
        "failed_export": failed.order_by("-at", "-id").first(),
        "has_centres": bool(extract.terms.rules),
        "refusal": refusal,
        "form": form,
    }
