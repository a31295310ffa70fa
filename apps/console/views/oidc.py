"""Logging in with a provider: the way there, the way back, and a clear page for each refusal."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import structlog
from django.contrib import auth
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.views.generic import View
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView, get_next_url

from apps.tenants import sessions
from apps.tenants.models import IdentityProvider
from apps.tenants.oidc.backend import CALLBACK, OidcBackend
from apps.tenants.oidc.discovery import Metadata, metadata_of
from apps.tenants.oidc.environment import adopt
from apps.tenants.oidc.refusals import Reason, Refused

SESSION_KEEPS = "oidc"
"""Where a session keeps the provider that opened it, and the ID token for logging out there."""
STATES = "oidc_states"
WAY_TAKES_AT_MOST = dt.timedelta(minutes=15)
"""How long a person may take to log in at the provider."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Words:
    """What a refusal's page says. Nothing of what the provider said or of what is known about the account."""

    status: int
    icon: str
    heading: str
    explanation: str


WORDS: dict[Reason, Words] = {
    Reason.UNREACHABLE: Words(
        503,
        "cloud_off",
        "The login service does not answer",
        "Nobody can log in with it at the moment. Try again in a minute, or use another way to log in.",
    ),
    Reason.REFUSED_THERE: Words(
        403,
        "block",
        "The login service did not let you in",
        "You refused the login there, or it does not let your account use Swarmdesk.",
    ),
    Reason.STATE: Words(
        400,
        "history_toggle_off",
        "This login is over",
        "It was used already, took too long, or was begun in another browser. Begin again.",
    ),
    Reason.AUDIENCE: Words(
        403,
        "mail_lock",
        "This login was meant for another application",
        "The login service answered with a pass for somebody else than Swarmdesk, so it was not accepted.",
    ),
    Reason.EXPIRED: Words(
        403,
        "timer_off",
        "This login had expired",
        "The pass from the login service was no longer valid when it arrived. Begin again.",
    ),
    Reason.INVALID: Words(
        403,
        "gpp_bad",
        "This login could not be verified",
        "The answer of the login service did not stand the checks, so it was not accepted. Begin again.",
    ),
    Reason.GROUPS_UNKNOWN: Words(
        403,
        "group_off",
        "Your groups could not be read",
        "The login service did not say which groups you are in, so your roles are not known. Nothing was changed.",
    ),
    Reason.NO_ROLE: Words(
        403,
        "no_accounts",
        "You have no role here",
        "The login worked, but none of your groups has a role in Swarmdesk. Ask for access where groups are managed.",
    ),
    Reason.NO_ACCOUNT: Words(
        403,
        "person_off",
        "You have no account here yet",
        "The login worked, but accounts are made by hand here. Ask an administrator to link yours.",
    ),
    Reason.DEACTIVATED: Words(
        403,
        "person_off",
        "This account is switched off",
        "The login worked, but the account may not be used. Ask an administrator if that is a mistake.",
    ),
}
BEGIN_AGAIN = {Reason.STATE, Reason.EXPIRED, Reason.INVALID, Reason.AUDIENCE, Reason.REFUSED_THERE, Reason.NO_ROLE}


def login_ways(now: dt.datetime) -> dict[str, Any]:
    """The providers that the login page offers, and those among them that failed to answer a moment ago."""
    adopt()
    providers = list(IdentityProvider.objects.offered())
    return {"providers": providers, "silent": [each for each in providers if each.is_paused(now)]}


def refuse(request: HttpRequest, refused: Refused, provider: IdentityProvider | None) -> HttpResponse:
    """Records a refused login and shows its page."""
    log.info(
        "login_refused",
        reason=str(refused.reason),
        detail=refused.detail,
        provider=provider.slug if provider else None,
    )
    now = timezone.now()
    context = {
        "words": WORDS[refused.reason],
        "reason": str(refused.reason),
        "reference": sessions.note_refusal(refused, request, provider).pk,
        "provider": provider,
        "begin_again": provider is not None and refused.reason in BEGIN_AGAIN,
        "try_anyway": refused.reason is Reason.UNREACHABLE and provider is not None and provider.discovery,
        **login_ways(now),
    }
    page = render(request, "console/login_refused.html", context, status=WORDS[refused.reason].status)
    add_never_cache_headers(page)
    return page


class First(View):
    """Logs in with the first provider that answers: each is tried in turn, in the order of the administration."""

    http_method_names = ["get"]

    def get(self, request: HttpRequest) -> HttpResponse:
        adopt()
        tried, refusal = None, Refused(Reason.UNREACHABLE, "there is none")
        for provider in IdentityProvider.objects.offered():
            try:
                metadata_of(provider, now=timezone.now(), must_be_up=True)
            except Refused as refused:
                tried, refusal = tried or provider, refused
                continue
            query = request.META.get("QUERY_STRING", "")
            return redirect(resolve_url("console:oidc-start", provider.slug) + (f"?{query}" if query else ""))
        return refuse(request, refusal, tried) if tried else redirect("console:login")


class Start(OIDCAuthenticationRequestView):
    """Sends the person to a provider, with state, nonce and PKCE kept in their session."""

    def __init__(self, **kwargs: Any) -> None:
        View.__init__(self, **kwargs)  # the library's reads the one provider of Django's settings

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        adopt()
        provider = IdentityProvider.objects.offered().filter(slug=slug).first()
        if provider is None:
            raise Http404
        try:
            metadata = metadata_of(provider, now=timezone.now(), must_be_up="anyway" not in request.GET)
        except Refused as refused:
            return refuse(request, refused, provider)
        self.provider = provider
        self.OIDC_RP_CLIENT_ID = provider.client_id
        self.OIDC_OP_AUTH_ENDPOINT, _, self.endpoint_query = metadata.authorization_endpoint.partition("?")
        response: HttpResponse = super().get(request)
        state = parse_qs(urlsplit(response["Location"]).query)["state"][0]
        request.session[STATES][state] |= {"provider": str(provider.pk), "next": get_next_url(request, "next")}
        request.session.pop("oidc_login_next", None)  # the library's, one for all tabs
        add_never_cache_headers(response)
        return response

    def get_settings(self, attr: str, *args: Any) -> Any:
        known = {
            "OIDC_AUTHENTICATION_CALLBACK_URL": CALLBACK,
            "OIDC_RP_SCOPES": self.provider.scopes,
            "OIDC_USE_PKCE": True,
        }
        return known.get(attr, *args)

    def get_extra_params(self, request: HttpRequest) -> dict[str, str]:
        return dict(parse_qsl(self.endpoint_query))


class Callback(OIDCAuthenticationCallbackView):
    """Where providers send people back to, with a code or with an error."""

    def get(self, request: HttpRequest) -> HttpResponse:
        provider, now = None, timezone.now()
        try:
            kept = self._used_up_state(request, now)
            provider = IdentityProvider.objects.offered().filter(pk=uuid.UUID(kept["provider"])).first()
            if provider is None:
                raise Refused(Reason.STATE, "the provider was switched off meanwhile")
            metadata = metadata_of(provider, now=now)
            _verify_answer(request, metadata)
            backend = OidcBackend(provider, metadata, now=now)
            user = backend.authenticate(request, nonce=kept["nonce"], code_verifier=kept["code_verifier"])
        except Refused as refused:
            return refuse(request, refused, provider)
        if user is None:
            return refuse(request, Refused(Reason.INVALID, "neither code nor error"), provider)
        with transaction.atomic():
            auth.login(request, user, backend="apps.tenants.oidc.backend.OidcBackend")  # with a session key anew
            request.session[SESSION_KEEPS] = {"provider": str(provider.pk), "id_token": backend.id_token}
            request.session.set_expiry(provider.session_hours * 3600)
            sessions.note_login(user, request, provider=provider)
        response = HttpResponseRedirect(kept.get("next") or resolve_url("console:overview"))
        add_never_cache_headers(response)
        return response

    def _used_up_state(self, request: HttpRequest, now: dt.datetime) -> dict[str, Any]:
        """What was kept when this login began. From now on it is unknown, whatever comes of this answer."""
        states = request.session.get(STATES) or {}
        kept: dict[str, Any] | None = states.pop(request.GET.get("state", ""), None)
        if kept is None or "provider" not in kept:
            raise Refused(Reason.STATE, "state is not known")
        request.session[STATES] = states
        request.session.save()
        if now.timestamp() - kept["added_on"] > WAY_TAKES_AT_MOST.total_seconds():
            raise Refused(Reason.STATE, "state is too old")
        return kept


def _verify_answer(request: HttpRequest, metadata: Metadata) -> None:
    """Raises Refused when another provider answers than was asked (RFC 9207), or the provider says no."""
    said = request.GET.get("iss")
    if said != metadata.issuer and (said is not None or metadata.says_issuer):
        raise Refused(Reason.INVALID, "another issuer answers")
    error = request.GET.get("error")
    if error:
        is_known = error.isascii() and error.isprintable() and len(error) <= 60
        down = error in {"temporarily_unavailable", "server_error"}
        raise Refused(Reason.UNREACHABLE if down else Reason.REFUSED_THERE, error if is_known else "an odd error")
