"""Logging in with a password, and logging out: here, and at the provider that opened the session."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import urlencode

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from unfold.widgets import INPUT_CLASSES

from apps.console.views.oidc import SESSION_KEEPS, login_ways
from apps.tenants import sessions
from apps.tenants.access import may_enter
from apps.tenants.models import IdentityProvider, User
from apps.tenants.oidc.discovery import metadata_of
from apps.tenants.oidc.refusals import Reason, Refused


class LoginForm(AuthenticationForm):
    """User name and password, in the theme's fields."""

    def __init__(self, request: HttpRequest | None = None, *args: object, **kwargs: object) -> None:
        super().__init__(request, *args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["class"] = " ".join(INPUT_CLASSES)

    error_messages = {
        "invalid_login": "That user name and password do not match. Both are case-sensitive.",
        "inactive": "This account is switched off. Ask an administrator of your tenant.",
        "no_role": "This account has no role in any tenant. Ask an administrator of your tenant for one.",
    }

    def confirm_login_allowed(self, user: Any) -> None:
        super().confirm_login_allowed(user)
        if self.request and not may_enter(user):
            sessions.note_refusal(Refused(Reason.NO_ROLE, user=user), self.request, None)
            raise ValidationError(self.error_messages["no_role"], code="no_role")


class Login(LoginView):
    """The ways to log in; goes on to ``?next=`` when that is a page of this site."""

    http_method_names = ["get", "head", "post"]
    template_name = "console/login.html"
    authentication_form = LoginForm
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        ended = self.request.GET.get("ended") == "1" and self.request.method == "GET"
        return {**super().get_context_data(**kwargs), **login_ways(timezone.now()), "ended": ended}

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        user = form.get_user()
        with transaction.atomic():
            response = super().form_valid(form)
            if isinstance(user, User):
                sessions.note_login(user, self.request)
        return response


def locked_out(
    request: HttpRequest, response: HttpResponse | None = None, credentials: dict[str, Any] | None = None
) -> HttpResponse:
    """The page for a name that is locked out from the address of the request: until when, and what to do."""
    same = AccessAttempt.objects.filter(
        username=(credentials or {}).get("username"), ip_address=sessions.address_of(request)
    )
    last = same.order_by("-attempt_time").values_list("attempt_time", flat=True).first()
    until = (last or timezone.now()) + settings.AXES_COOLOFF_TIME
    left = max(until - timezone.now(), dt.timedelta(seconds=1))
    page = render(request, "console/locked_out.html", {"until": until, **login_ways(timezone.now())}, status=429)
    page["Retry-After"] = str(int(left.total_seconds()) + 1)
    add_never_cache_headers(page)
    return page


class Logout(LogoutView):
    """Ends the session (POST), then that at the provider which opened it, and shows the login page."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user, kept = request.user, request.session.get(SESSION_KEEPS) or {}
        provider = IdentityProvider.objects.filter(pk=kept["provider"]).first() if kept else None
        with transaction.atomic():
            if isinstance(user, User):
                sessions.note_logout(user, request, provider=provider)
            response: HttpResponse = super().post(request, *args, **kwargs)
        if provider is None:
            return response
        return _log_out_there(request, provider, kept["id_token"]) or response


def _log_out_there(request: HttpRequest, provider: IdentityProvider, id_token: str) -> HttpResponse | None:
    """The way to the provider's own logout (OpenID Connect RP-Initiated Logout 1.0); None when it has none.

    It is a page, and no redirect: browsers hold redirects of a form against the page's ``form-action``.
    """
    context: dict[str, Any] = {"provider": provider}
    try:
        there = metadata_of(provider, now=timezone.now(), must_be_up=True).end_session_endpoint
        if not there:
            return None
        back = request.build_absolute_uri(reverse("console:login"))
        asked = {"id_token_hint": id_token, "client_id": provider.client_id, "post_logout_redirect_uri": back}
        context["there"] = f"{there}{'&' if '?' in there else '?'}{urlencode(asked)}"
    except Refused:
        pass  # it is down: the page says that the session there may still be open
    page = render(request, "console/logged_out.html", context)
    add_never_cache_headers(page)
    return page
