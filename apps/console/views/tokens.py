"""One's own API tokens."""

from __future__ import annotations

import datetime as dt
import uuid
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse

from apps.console.views.base import ConsoleView, Page, typed
from apps.tenants.actions import CannotCreateToken, create_token, revoke_token
from apps.tenants.models import Tenant, User
from apps.tenants.roles import Permission, Role
from apps.tenants.tokens import own_tokens, verify_may_make

LIVES = (7, 30, 90, 365)
"""Days to choose from."""


class Tokens(Page):
    """``/tokens/``: one's own tokens, and a form for another; its text is in the answer to the form alone."""

    template_name: ClassVar[str] = "console/tokens.html"
    section = "tokens"
    title = "API tokens"

    @cached_property
    def user(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    @cached_property
    def choices(self) -> list[Tenant]:
        """The tenants that a token can be for: where one has a role."""
        by = self.principal
        return [tenant for tenant in self.tenants if by.everything or by.permissions.get(tenant.pk)]

    def context(self) -> dict[str, Any]:
        roles: dict[str, str] = {}
        if not self.user.is_superuser:
            roles = {str(role): Role(role).label for role in self.user.memberships.values_list("role", flat=True)}
        held = [
            str(name)
            for name in Permission
            if self.principal.everything or any(name in names for names in self.principal.permissions.values())
        ]
        return {
            "tokens": list(own_tokens(self.user).order_by("-created", "-uid")),
            "choices": self.choices,
            "roles": sorted((roles or dict(Role.choices)).items()),
            "permissions": held,
            "lives": LIVES,
            "typed": {"tenant": self.choices[0].slug if len(self.choices) == 1 else "", "days": "90"},
        }

    def post(self, request: HttpRequest) -> HttpResponse:
        given = request.POST
        tenant = next((each for each in self.choices if each.slug == given.get("tenant")), None)
        days = given.get("days", "")
        text = refused = ""
        if tenant is None:
            refused = "Pick the tenant that the token is for."
        elif not (set(given.getlist("permissions")) <= set(Permission) and given.get("role", "") in ("", *Role.values)):
            refused = "That role or permission is not known."
        elif days not in {str(each) for each in LIVES}:
            refused = "Pick when the token expires."
        elif len(typed(given.get("name"))) > 100:
            refused = "A name has at most 100 characters."
        else:
            verify_may_make(self.principal, self.user, of=self.user, tenant=tenant)
            try:
                _, text = create_token(
                    self.user,
                    tenant,
                    role=given.get("role", ""),
                    permissions=given.getlist("permissions"),
                    name=typed(given.get("name")),
                    life=dt.timedelta(days=int(days)),
                    by=self.principal,
                )
            except CannotCreateToken as cannot:
                refused = str(cannot)
        context = {**self.shared(), **self.context(), "text": text, "refused": refused}
        if refused:
            context["typed"] = {**given.dict(), "permissions": given.getlist("permissions")}
        return render(request, self.template_name, context, status=422 if refused else 200)


class TokenRevoke(ConsoleView):
    """``POST /tokens/ID/revoke/``: ends one of one's own tokens."""

    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
        assert isinstance(request.user, User)
        token = get_object_or_404(own_tokens(request.user), uid=pk)
        revoke_token(token, by=self.principal, reason=typed(request.POST.get("reason")))
        messages.success(request, f"{token.name or token.token_key + '…'} is revoked: it is refused from now on.")
        return HttpResponseRedirect(reverse("console:tokens"))
