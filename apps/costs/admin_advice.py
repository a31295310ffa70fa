"""The page of advice: what could be saved, what it rests on, and a button to do it or to say no."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from apps.costs import advising
from apps.costs.advising import CannotDecide, act_of
from apps.costs.models import Advice, AdviceStatus, LedgerEntry
from apps.tenants.access import AccessDenied, Principal, principal_of_request
from apps.tenants.roles import Permission
from portal.admin import Card, list_url
from portal.admin_columns import GOOD, WARN
from portal.admin_site import Page, register_page
from portal.money import usd_label, usd_text

PER_PAGE = 20
ABOUT = (
    "What could be saved, going by the last 30 days. Each piece of advice says what it rests on; act on it with one "
    "click, or dismiss it with a reason. It is looked for every night."
)


def advice_page(request: HttpRequest) -> HttpResponse:
    """The open advice, and below what was decided lately; POST decides, or looks for advice now."""
    principal = principal_of_request(request)
    if request.method == "POST":
        return _decide(request, principal)
    rows = Advice.objects.visible_to(principal).select_related("tenant")
    page = Paginator(rows.open(), PER_PAGE).get_page(request.GET.get("page"))
    decided = rows.exclude(status=AdviceStatus.OPEN).order_by("-decided_at")[:PER_PAGE]
    context = {
        **admin.site.each_context(request),
        "title": "Advice",
        "about": ABOUT,
        "page": page,
        "advice": [_shown(advice, principal) for advice in page],
        "saving": usd_label(sum(rows.open().values_list("saving", flat=True))),
        "decided": [_shown(advice, principal) for advice in decided],
        "may_look": principal.can_anywhere(Permission.COST_UPDATE),
    }
    return TemplateResponse(request, "admin/costs/advice.html", context)


def _shown(advice: Advice, principal: Principal) -> dict[str, Any]:
    act = act_of(advice)
    may_decide = principal.everything or (
        advice.tenant_id is not None and principal.can(Permission.COST_UPDATE, advice.tenant_id)
    )
    return {
        "row": advice,
        "kind": advice.get_kind_display(),
        "tenant": advice.tenant.name if advice.tenant else "The platform",
        "saving": usd_label(advice.saving),
        "saving_exact": usd_text(advice.saving),
        "act": act if may_decide and act and (act.permission or principal.everything) else None,
        "effect": act.effect(advice) if act else "",
        "may_decide": may_decide,
        "ledger_url": _ledger_url(advice),
        "samples": [(id, reverse("admin:costs_ledgerentry_change", args=[id])) for id in advice.sample_ids],
        "state": advice.get_status_display().lower(),
    }


def _ledger_url(advice: Advice) -> str:
    """The ledger, narrowed to the rows that the advice rests on."""
    query = {name: str(value) for name, value in advice.query.items()}
    query |= {"from": f"{advice.window_start:%Y-%m-%d}", "to": f"{advice.window_end:%Y-%m-%d}"}
    if advice.tenant_id:
        query["tenant"] = str(advice.tenant_id)
    return list_url(LedgerEntry, urlencode(query))


def _decide(request: HttpRequest, principal: Principal) -> HttpResponse:
    now = timezone.now()
    verb = request.POST.get("do", "")
    try:
        if verb == "look":
            if not principal.can_anywhere(Permission.COST_UPDATE):
                raise AccessDenied(f"This needs the permission {Permission.COST_UPDATE}.")
            advising.refresh(now=now)
            messages.success(request, "Looked through the last 30 days: this is what was found.")
            return redirect(request.path)
        advice = _chosen(request, principal)
        if verb == "act":
            advising.act_on(advice, by=principal, now=now)
            messages.success(request, f"Done. {advice.text}")
        elif verb == "dismiss":
            advising.dismiss(advice, reason=request.POST.get("reason", ""), by=principal, now=now)
            messages.success(request, "Dismissed. It comes back only when twice as much could be saved.")
        else:
            raise CannotDecide("Nothing was done: choose to act or to dismiss.")
    except (AccessDenied, CannotDecide) as refusal:
        messages.error(request, str(refusal))
    return redirect(request.path)


def _chosen(request: HttpRequest, principal: Principal) -> Advice:
    """The advice that is meant, if this person may see it."""
    try:
        wanted = uuid.UUID(request.POST.get("advice", ""))
    except ValueError:
        raise CannotDecide("There is no such advice, or you may not see it.") from None
    found = Advice.objects.visible_to(principal).filter(pk=wanted).first()
    if found is None:
        raise CannotDecide("There is no such advice, or you may not see it.")
    return found


def _card(request: HttpRequest) -> Card | None:
    savings = list(Advice.objects.visible_to(principal_of_request(request)).open().values_list("saving", flat=True))
    title = f"{len(savings)} piece{'s' * (len(savings) != 1)} of advice"
    tone = WARN if savings else GOOD
    return Card("Could be saved", usd_label(sum(savings)), f"a month, {title}", reverse("admin:costs_advice"), tone)


register_page(
    Page(
        name="costs_advice",
        path="costs/advice/",
        about=ABOUT,
        view=advice_page,
        may_open=lambda request: principal_of_request(request).can_anywhere(Permission.COST_READ),
        card=_card,
        does=True,
    )
)
