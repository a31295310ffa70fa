"""The page about caches: how they do, and having what is in them forgotten."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.providers import cache_standings, invalidating
from apps.providers.cache_standings import OfTenant, Standing
from apps.providers.cache_usage import Counts
from apps.providers.invalidating import BadPattern, CannotInvalidate, Pattern
from apps.providers.models import Cache
from apps.tenants.access import AccessDenied, Principal, principal_of_request
from apps.tenants.roles import Permission
from portal.admin_site import Page, register_page
from portal.money import usd_label

ABOUT = "What is kept so as not to ask again: how often it answers, what it saves, and having it forgotten."
ALL = "*"
_EXPLAINED = {
    Cache.RESPONSES: "Answers of models, for agents whose spec allows it",
    Cache.CONFIGURATION: "Providers and regions, as each process knows them; heard of at once when they change",
    Cache.CATALOGUE: "The models that providers list, asked for once a day by a worker that holds the key",
}


class ForgetForm(forms.Form):
    """What is to be forgotten, and why."""

    cache = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    tenant = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    agent = forms.CharField(
        initial=ALL, widget=UnfoldAdminTextInputWidget, help_text="A name, or a pattern with * and ?: write*"
    )
    model = forms.CharField(
        initial=ALL, widget=UnfoldAdminTextInputWidget, help_text="provider:model, or a pattern: openai:*"
    )
    reason = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Kept in the audit trail.")

    def __init__(self, data: Mapping[str, Any] | None, *, by: Principal) -> None:
        super().__init__(data)
        self.by = by
        caches = list(_EXPLAINED) if by.everything else [Cache.RESPONSES]
        self.fields["cache"].choices = [(each.value, each.label) for each in caches]  # type: ignore[attr-defined]
        own = by.tenants(Permission.SWARM_DELETE).order_by("name").values_list("pk", "name")
        tenants = [(str(pk), name) for pk, name in own]
        if by.everything:
            tenants = [(ALL, "All tenants"), *tenants]
        self.fields["tenant"].choices = tenants  # type: ignore[attr-defined]
        if len(caches) == 1:
            self.fields["cache"].widget, self.fields["cache"].initial = forms.HiddenInput(), Cache.RESPONSES.value

    def clean_agent(self) -> str:
        return self._part("agent")

    def clean_model(self) -> str:
        return self._part("model")

    def _part(self, name: str) -> str:
        try:
            return invalidating.part(self.cleaned_data[name], name)
        except BadPattern as error:
            raise forms.ValidationError(str(error)) from error

    @property
    def pattern(self) -> Pattern:
        tenant = self.cleaned_data["tenant"]
        return Pattern(None if tenant == ALL else forms.UUIDField().clean(tenant), *self._names)

    @property
    def _names(self) -> tuple[str, str]:
        return self.cleaned_data["agent"], self.cleaned_data["model"]

    @property
    def wanted(self) -> Cache:
        return Cache(self.cleaned_data["cache"])


def may_open(request: HttpRequest) -> bool:
    return principal_of_request(request).can_anywhere(Permission.COST_READ)


def view(request: HttpRequest) -> HttpResponseBase:
    by, now = principal_of_request(request), timezone.now()
    may_forget = by.can_anywhere(Permission.SWARM_DELETE)
    form = ForgetForm(request.POST if request.method == "POST" else None, by=by) if may_forget else None
    asked = None
    if request.method == "POST":
        if form is None:
            raise PermissionDenied("This needs the permission swarm:delete in some tenant.")
        if form.is_valid():
            if request.POST.get("confirmed") == "yes":
                return _forget(request, form, by=by, now=now)
            asked = _effect(form)
    context = {
        **admin.site.each_context(request),
        "title": "Caches",
        "about": ABOUT,
        "caches": [_line(each) for each in cache_standings.standings(by, now=now)],
        "tenants": [_line_of_tenant(each) for each in cache_standings.tenants(by, now=now)],
        "form": form,
        "asked": asked,
    }
    return TemplateResponse(request, "admin/providers/caches.html", context)


def _effect(form: ForgetForm) -> str:
    """What will happen, in words."""
    if form.wanted is Cache.RESPONSES:
        number = invalidating.count([form.pattern])
        whose = dict(form.fields["tenant"].choices)[form.cleaned_data["tenant"]]  # type: ignore[attr-defined]
        agent, model = form._names
        return (
            f"{_answers(number)} will be forgotten: {whose}, agents {agent}, models {model}. "
            "Calls under way will not keep theirs. The next calls ask the models, and are paid for."
        )
    if form.wanted is Cache.CATALOGUE:
        return "The lists are forgotten, and asked for anew within seconds. Till then no name is doubted or offered."
    return "Every process reads it anew within seconds. No call is interrupted."


def _forget(request: HttpRequest, form: ForgetForm, *, by: Principal, now: dt.datetime) -> HttpResponseBase:
    reason = form.cleaned_data["reason"]
    try:
        if form.wanted is Cache.RESPONSES:
            gone = invalidating.invalidate([form.pattern], by=by, reason=reason, now=now)
            messages.success(request, f"{_answers(gone)} forgotten.")
        else:
            provider = form.cleaned_data["model"].partition(":")[0]
            names = invalidating.reload(form.wanted, provider, by=by, reason=reason, now=now)
            done = "Asked for anew" if form.wanted is Cache.CATALOGUE else "Every process reads it anew"
            messages.success(request, f"{done}: {', '.join(names)}.")
    except AccessDenied as denied:
        raise PermissionDenied(str(denied)) from denied
    except (BadPattern, CannotInvalidate) as error:
        messages.error(request, f"Nothing was forgotten. {error}")
    return redirect("admin:providers_caches")


def _answers(number: int) -> str:
    return f"{number:,} answer{'' if number == 1 else 's'}"


def _line(each: Standing) -> dict[str, Any]:
    return {
        "name": each.cache.label,
        "about": _EXPLAINED[each.cache],
        "entries": f"{each.entries:,}",
        "size": "–" if each.size is None else filesizeformat(each.size),
        "spans": [
            {"name": name, **_used(counts)} for name, counts in (("Last hour", each.hour), ("Last day", each.day))
        ],
    }


def _line_of_tenant(each: OfTenant) -> dict[str, Any]:
    size = filesizeformat(each.size)
    return {"name": each.tenant.name, "entries": f"{each.entries:,}", "size": size, **_used(each.day)}


def _used(counts: Counts) -> dict[str, str]:
    return {
        "hits": f"{counts.hits:,}",
        "misses": f"{counts.misses:,}",
        "rate": "–" if counts.rate is None else f"{counts.rate:.0%}",
        "degraded": f"{counts.degraded:,}",
        "evicted": f"{counts.evicted:,}",
        "failures": f"{counts.failures:,}",
        "saved": usd_label(counts.saved),
    }


register_page(Page("providers_caches", "caches/", ABOUT, view, may_open, does=True))
