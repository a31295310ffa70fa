"""What all console pages share: login, the principal, the tenant filter, and parts that load anew on their own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from django.contrib.auth import SESSION_KEY
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import urlencode
from django.views import View

from apps.console.visible import may_see_providers
from apps.events.horizon import readable
from apps.tenants.access import AccessDenied, Principal, principal_of_request
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission


class ConsoleView(View):
    """A view for people who are logged in. What a permission forbids becomes a 403 page with the reason."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            ended = SESSION_KEY in request.session
            if ended:  # its user was switched off, or has no role any more: it must not come back to life
                request.session.flush()
            if "HX-Request" in request.headers:  # a part of a page whose session has ended: the whole page must move
                login = f"{reverse('console:login')}?{urlencode({'next': request.path})}"
                return HttpResponse(status=401, headers={"HX-Redirect": login})
            login = reverse("console:login") + ("?ended=1" if ended else "")
            return redirect_to_login(request.get_full_path(), login)
        try:
            response = super().dispatch(request, *args, **kwargs)
        except AccessDenied as denied:
            raise PermissionDenied(str(denied)) from denied
        except Http404 as missing:
            if denial := self.principal.withheld():
                raise PermissionDenied(denial) from missing
            raise
        add_never_cache_headers(response)
        return response

    @cached_property
    def principal(self) -> Principal:
        return principal_of_request(self.request)

    @cached_property
    def now(self) -> dt.datetime:
        return timezone.now()


def typed(value: str | None) -> str:
    """What a person typed, without what no database text can hold and without blanks around it."""
    return (value or "").replace("\x00", "").strip()


class Page(ConsoleView):
    """A page made of parts. ``?part=a,b`` gives only those, for htmx to put in their places.

    Each part is a template in ``console/parts/`` whose outermost element has the id ``part-NAME``, and gets what its
    function in ``parts`` returns.
    """

    template_name: ClassVar[str]
    section: ClassVar[str] = ""
    title = ""

    @cached_property
    def tenants(self) -> list[Tenant]:
        """The tenants of whom something may be seen here."""
        known = self.principal.known_tenant_ids()
        rows = Tenant.objects.all()
        return list(rows if known is None else rows.filter(pk__in=known))

    @cached_property
    def tenant(self) -> Tenant | None:
        """The tenant picked with ``?tenant=slug``; None for all."""
        slug = self.request.GET.get("tenant", "")
        return next((tenant for tenant in self.tenants if tenant.slug == slug), None)

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {}

    def context(self) -> dict[str, Any]:
        """What the page itself reads besides its parts."""
        return {}

    def shared(self) -> dict[str, Any]:
        """What every page and part reads. Ask for it first: the socket goes on where this page's data ends."""
        return {
            "after": readable(),
            "now": self.now,
            "title": self.title,
            "section": self.section,
            "principal": self.principal,
            "may_read_swarms": self.principal.can_anywhere(Permission.SWARM_READ, on_a_swarm=True),
            "may_see_providers": may_see_providers(self.principal),
            "may_submit": self.principal.can_anywhere(Permission.SWARM_CREATE),
            "tenants": self.tenants,
            "tenant": self.tenant,
            "many_tenants": len(self.tenants) > 1,
        }

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        shared = self.shared()
        wanted = [name for name in request.GET.get("part", "").split(",") if name in self.parts]
        if wanted:
            rendered = (
                render_to_string(f"console/parts/{name}.html", {**shared, "swap": True, **self.parts[name]()}, request)
                for name in wanted
            )
            return HttpResponse("".join(rendered))
        context = {**shared, **self.context()}
        for facts in self.parts.values():
            context.update(facts())
        return render(request, self.template_name, context)
