"""The page of model providers: how they stand, what became of them, and what a platform admin may do about it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import messages
from django.core.paginator import Page as PageOfRows
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from apps.console import providers
from apps.console.sentences import sentence
from apps.console.views.base import ConsoleView, Page, typed
from apps.providers import cache_standings
from apps.providers.acts import ACTS
from apps.providers.history import history
from apps.providers.models import Provider, Region
from apps.providers.secrets.orders import order_refresh
from apps.providers.switching import CannotSwitch
from apps.tenants.access import AccessDenied
from apps.tenants.roles import Permission

PROVIDERS = 8
EVENTS = 25
LONGEST_REASON = 500


class Providers(Page):
    """``/providers/``: for all who may see a swarm anywhere; keys and buttons are for platform admins.

    Caches are shown as far as the principal may read costs.
    """

    template_name: ClassVar[str] = "console/providers.html"
    section = "providers"
    title = "Model providers"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.principal.verify_anywhere(Permission.SWARM_READ)
        return super().get(request, *args, **kwargs)

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        parts: dict[str, Callable[[], dict[str, Any]]] = {"providers": self.providers, "history": self.history}
        if self.principal.everything:
            parts["keys"] = self.keys
        if self.may_read_costs:
            parts["caches"] = self.caches
        return parts

    def context(self) -> dict[str, Any]:
        return {
            "may_act": self.principal.everything,
            "may_read_costs": self.may_read_costs,
            "acts": ACTS,
            "longest_reason": LONGEST_REASON,
        }

    @cached_property
    def may_read_costs(self) -> bool:
        """What caches saved is money, and whose answers they keep is a tenant's business."""
        return self.principal.can_anywhere(Permission.COST_READ)

    @cached_property
    def shown_providers(self) -> PageOfRows[Provider]:
        return Paginator(providers.rows(), PROVIDERS).get_page(self.request.GET.get("page"))

    def providers(self) -> dict[str, Any]:
        shown = self.shown_providers
        return {
            "cards": providers.cards(list(shown.object_list), may_act=self.principal.everything, now=self.now),
            "shown": shown,
            "pages": shown.paginator.get_elided_page_range(shown.number, on_each_side=1, on_ends=1),
            "per_span": providers.PER_SPAN,
        }

    def keys(self) -> dict[str, Any]:
        lines = providers.key_lines(list(self.shown_providers.object_list))
        down = {line.backend.name: line.backend for line in lines if line.backend and line.backend.down_since}
        return {"keys": lines, "down": list(down.values())}

    def caches(self) -> dict[str, Any]:
        return {"caches": cache_standings.standings(self.principal, now=self.now)}

    def history(self) -> dict[str, Any]:
        asked = self.request.GET
        names = [provider.name for provider in self.shown_providers.object_list]
        provider = asked.get("provider", "")
        provider = provider if provider in names else ""
        before = asked.get("before", "")
        until = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None
        found = history(provider=provider, before=until, limit=EVENTS + 1)
        return {
            "events": [(event, sentence(event.kind, event.data)) for event in found[:EVENTS]],
            "older": found[EVENTS - 1].pk if len(found) > EVENTS else None,
            "before": until,
            "names": names,
            "provider_name": provider,
        }


class PlatformAct(ConsoleView):
    """Something that only platform admins do."""

    http_method_names = ["post"]

    def verify(self) -> None:
        """Raises AccessDenied for everybody else."""
        if not self.principal.everything:
            raise AccessDenied("Model providers belong to the platform: only platform admins change them.")

    def back(self, anchor: str) -> HttpResponse:
        return HttpResponseRedirect(f"{reverse('console:providers')}#{anchor}")


class RegionAct(PlatformAct):
    """``POST /providers/regions/ID/open|close|drain|undrain/`` with a reason."""

    def post(self, request: HttpRequest, pk: uuid.UUID, act: str) -> HttpResponse:
        self.verify()
        if act not in ACTS:
            raise Http404
        region = get_object_or_404(Region.objects.select_related("provider"), pk=pk)
        reason = typed(request.POST.get("reason"))
        if not reason:
            messages.error(request, f"Nothing was changed at {region}. Say why: the reason is kept in the audit trail.")
        elif len(reason) > LONGEST_REASON:
            messages.error(request, f"Nothing was changed at {region}. A reason has at most {LONGEST_REASON} letters.")
        else:
            try:
                ACTS[act].perform(region, by=self.principal, reason=reason)
            except CannotSwitch as refused:
                messages.error(request, f"Nothing was changed. {refused}")
            else:
                messages.success(request, f"{region} was {ACTS[act].done}.")
        return self.back(f"region-{region.pk}")


class RefreshKeys(PlatformAct):
    """``POST /providers/keys/refresh/``: every process reads its keys anew."""

    def post(self, request: HttpRequest) -> HttpResponse:
        self.verify()
        order_refresh(by=self.principal, reason=typed(request.POST.get("reason"))[:LONGEST_REASON])
        messages.success(request, "Every process reads its keys anew now. Below you see when each has.")
        return self.back("part-keys")
