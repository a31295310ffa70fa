"""The page behind "Try it" of a region: which model, on whose account, how the call goes, and what came of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, cast

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget

from apps.execution import trying
from apps.execution.models import RegionTry, TryStatus
from apps.execution.trying import MAX_OUTPUT_TOKENS, CannotTry
from apps.providers import catalogue
from apps.providers.models import Region
from apps.tenants.models import Tenant, User
from portal.admin import admin_url, list_url
from portal.admin_fields import SuggestingTextInput
from portal.money import usd_text

TONES = {
    TryStatus.WORKS: "success",
    TryStatus.FAILED: "danger",
    TryStatus.REFUSED: "warning",
    TryStatus.UNANSWERED: "warning",
    TryStatus.LOST: "danger",
}
"""As Unfold's labels name them."""


class TryForm(forms.Form):
    model = forms.CharField(
        max_length=200,
        label="Model",
        help_text="Its name at the provider: what stands behind the colon. It needs a price.",
        error_messages={"required": "Say which model to call."},
    )
    tenant = forms.ModelChoiceField(
        Tenant.objects.none(),
        label="Paid by",
        help_text="The call costs money: this tenant's budgets must have room for it, and its ledger shows it.",
        widget=UnfoldAdminSelectWidget,
        error_messages={"required": "Choose who pays for the call."},
    )

    def __init__(self, tenants: Any, models: Sequence[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model"].widget = SuggestingTextInput(models, {"maxlength": 200})
        self.fields["tenant"].queryset = tenants  # type: ignore[attr-defined]


def try_page(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    """The form, and above it how the person's last call stands. Nothing is called on a GET.

    While a call is under way the page asks for that part alone, again and again; once it is over, the whole page is
    opened anew, so what it shows is what it would show after any reload.
    """
    region: Region | None = model_admin.row_or_none(request, object_id)
    if region is None:
        return redirect(list_url(Region))
    if not model_admin.has_change_permission(request, region):
        raise PermissionDenied
    by, user, now = model_admin.principal(request), cast("User", request.user), timezone.now()
    if request.method == "GET" and "HX-Request" in request.headers:
        last = trying.last_of(region, user, now=now)
        if last is None or not last.is_under_way:
            return HttpResponse(headers={"HX-Redirect": request.get_full_path()})
        return TemplateResponse(request, "admin/providers/try_state.html", _state(last, now))
    models = catalogue.listed_by(region.provider)
    form = TryForm(by.tenants(None), models, request.POST if request.method == "POST" else None)
    if form.is_valid():
        model, tenant = form.cleaned_data["model"], form.cleaned_data["tenant"]
        try:
            trying.ask(region, model=model, tenant=tenant, by=by, user=user, now=now)
        except CannotTry as cannot:
            form.add_error(None, str(cannot))
        else:
            return redirect(request.get_full_path())
    last = trying.last_of(region, user, now=now)
    if last is not None and not form.is_bound:
        form.initial = {"model": last.model, "tenant": last.tenant_id}
    context = {
        **model_admin.admin_site.each_context(request),
        **(_state(last, now) if last else {}),
        "title": f"Try {region}",
        "opts": model_admin.opts,
        "form": form,
        "most": MAX_OUTPUT_TOKENS,
        "back": admin_url(region),
    }
    return TemplateResponse(request, "admin/providers/try.html", context)


def _state(last: RegionTry, now: dt.datetime) -> dict[str, Any]:
    """What the page shows of a try."""
    return {
        "last": last,
        "waits": last.status == TryStatus.WAITING,
        "for_s": int((now - last.asked_at).total_seconds()),
        "tone": TONES.get(TryStatus(last.status), "info"),
        "was_called": last.status in (TryStatus.WORKS, TryStatus.FAILED),
        "cost": usd_text(last.cost),
        "ms": round(last.seconds * 1000),
        "within_s": round(trying.TAKEN_WITHIN_S),
        "call_s": round(trying.CALL_S),
    }
