"""The page behind "Try it" of a region: which model, on whose account, and what came of it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.execution.trying import MAX_OUTPUT_TOKENS, CannotTry, try_region
from apps.providers.models import Region
from apps.tenants.models import Tenant
from portal.admin import admin_url, list_url
from portal.money import usd_text


class TryForm(forms.Form):
    model = forms.CharField(
        max_length=200,
        label="Model",
        help_text="Its name at the provider: what stands behind the colon. It needs a price.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        error_messages={"required": "Say which model to call."},
    )
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        label="Paid by",
        help_text="The call costs money: this tenant's budgets must have room for it, and its ledger shows it.",
        widget=UnfoldAdminSelectWidget,
        error_messages={"required": "Choose who pays for the call."},
    )

    def __init__(self, tenants: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tenant"].queryset = tenants  # type: ignore[attr-defined]


def try_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """The form, and below it what the last call came to. Nothing is called on a GET."""
    region: Region | None = model_admin.row_or_none(request, object_id)
    if region is None:
        return redirect(list_url(Region))
    if not model_admin.has_change_permission(request, region):
        raise PermissionDenied
    by = model_admin.principal(request)
    form = TryForm(by.tenants(None), request.POST if request.method == "POST" else None)
    found = None
    if form.is_valid():
        try:
            found = try_region(region, model=form.cleaned_data["model"], tenant=form.cleaned_data["tenant"], by=by)
        except CannotTry as cannot:
            form.add_error(None, str(cannot))
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Try {region}",
        "opts": model_admin.opts,
        "form": form,
        "found": found,
        "cost": usd_text(found.cost) if found else "",
        "ms": round(found.seconds * 1000) if found else 0,
        "most": MAX_OUTPUT_TOKENS,
        "back": admin_url(region),
    }
    return TemplateResponse(request, "admin/providers/try.html", context)
