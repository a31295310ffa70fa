"""Rate limits of logging in: by address, and by the name that is tried, whatever addresses it is tried from.

That many addresses together cannot guess one password, the name has a limit of its own. It must not become a way to
keep its owner out: a browser in which somebody logged in with a password has a cookie that says with which name, and is
counted by itself (OWASP calls it a device cookie). Without the cookie the owner waits for the next minute, or logs in
through a provider, which asks for no name here.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers
from django.utils.crypto import salted_hmac

from apps.api.limits import Standing, address_of, take
from apps.tenants import sessions

DOORS: dict[str, str] = {
    "console:login": "POST",  # where that of the administration leads to
    "console:oidc-first": "GET",
    "console:oidc-start": "GET",
    "console:oidc-callback": "GET",
}
"""The views that try to log somebody in, and by which method."""
COOKIE = "known_browser"
COOKIE_LASTS = dt.timedelta(days=365)
_SALT = "apps.api.logins"

log = structlog.get_logger(__name__)


class LoginLimits:
    """Answers 429, with a page that says when to try again, to one attempt too many."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        tried = getattr(request, "_name_tried", "")
        # Whoever is logged in already is led on whatever name they send: that name is none of theirs.
        if tried and isinstance(response, HttpResponse) and _hidden(request.user.get_username()) == tried:
            _remember(response, tried)
        return response

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        match = request.resolver_match
        if match is None or DOORS.get(match.view_name) != request.method:
            return None
        now = time.time()
        standing = take("login", f"address {address_of(sessions.address_of(request))}", now=now)
        if standing and not standing.allowed:
            return _refuse(request, standing)
        name = request.POST.get("username", "").strip() if request.method == "POST" else ""
        if not name:
            return None
        tried = _hidden(name)
        standing = take("name", _browser_of(request, tried) or f"name {tried}", now=now)
        if standing and not standing.allowed:
            return _refuse(request, standing)
        request._name_tried = tried  # type: ignore[attr-defined]
        return None


def _hidden(name: str) -> str:
    """What a name is counted under: people type passwords where names belong."""
    return salted_hmac(_SALT, name.casefold(), algorithm="sha256").hexdigest()[:32]


def _browser_of(request: HttpRequest, tried: str) -> str:
    """What a browser is counted under in which this name logged in before; empty for any other."""
    try:
        name, browser = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT, max_age=COOKIE_LASTS)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    return f"browser {browser}" if name == tried else ""


def _remember(response: HttpResponse, name: str) -> None:
    response.set_cookie(
        COOKIE,
        signing.dumps([name, secrets.token_hex(16)], salt=_SALT),
        max_age=COOKIE_LASTS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _refuse(request: HttpRequest, standing: Standing) -> HttpResponse:
    log.info("login_limited", policy=standing.policy)
    context = {"seconds": standing.reset_s, "by_name": standing.policy == "name"}
    page = render(request, "console/too_many.html", context, status=429)
    for name, value in {**standing.headers, "Retry-After": str(standing.reset_s)}.items():
        page.headers[name] = value
    add_never_cache_headers(page)
    return page
