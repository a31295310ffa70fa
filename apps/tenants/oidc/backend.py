"""The authentication backend: mozilla-django-oidc's flow, for one of several providers, with stricter verification."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import Exists, OuterRef
from django.http import HttpRequest
from jwt import PyJWK
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from apps.audit.trail import Actor
from apps.tenants.access import those_who_may_enter
from apps.tenants.models import Identity, IdentityProvider, User
from apps.tenants.oidc import discovery
from apps.tenants.oidc.admitting import admit, groups_in
from apps.tenants.oidc.fetching import FetchFailed, basic, fetch_json
from apps.tenants.oidc.refusals import Reason, Refused
from apps.tenants.oidc.tokens import verify_id_token, verify_userinfo

CALLBACK = "console:oidc-callback"


class OidcBackend(OIDCAuthenticationBackend):
    """Django makes one without arguments to find the user of a session; a login makes one with its provider."""

    def __init__(
        self,
        provider: IdentityProvider | None = None,
        metadata: discovery.Metadata | None = None,
        *,
        now: dt.datetime | None = None,
    ) -> None:
        self.UserModel = User
        self.id_token = ""
        if provider and metadata and now:
            self.provider, self.metadata, self.now = provider, metadata, now
            self.OIDC_RP_CLIENT_ID = provider.client_id
            self.OIDC_RP_CLIENT_SECRET = provider.client_secret

    def get_settings(self, attr: str, *args: Any) -> Any:
        """What the library reads from Django's settings, where there can be only one provider."""
        return {"OIDC_AUTHENTICATION_CALLBACK_URL": CALLBACK}.get(attr, *args)

    def authenticate(self, request: HttpRequest | None, **kwargs: Any) -> User | None:
        """The user of an answer to the callback address, with the nonce and verifier kept for it. Raises Refused.

        Django asks every backend about every name and password: those are not for this one.
        """
        if not hasattr(self, "provider"):
            return None
        user: User | None = super().authenticate(request, **kwargs)
        return user

    def get_token(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Exchanges the code for tokens."""
        form, headers = {name: str(value) for name, value in payload.items() if value is not None}, {}
        secret = form.pop("client_secret", "")
        if secret and self.metadata.secret_in_form:
            form["client_secret"] = secret
        elif secret:
            headers["Authorization"] = basic(self.provider.client_id, secret)
        return self._fetch("token", self.metadata.token_endpoint, data=form, headers=headers)

    def verify_token(self, token: str, **kwargs: Any) -> dict[str, Any]:
        return verify_id_token(
            token if isinstance(token, str) else "",
            find_key=self._key,
            issuer=self.metadata.issuer,
            client_id=self.provider.client_id,
            nonce=kwargs.get("nonce"),
            now=self.now,
        )

    def store_tokens(self, access_token: str, id_token: str) -> None:
        """Nothing in the session of before the login; the ID token is the hint for logging out at the provider."""
        self.id_token = id_token

    def get_userinfo(self, access_token: str, id_token: str, payload: dict[str, Any]) -> dict[str, Any]:
        """What the userinfo endpoint says of the person, signed or not; it must speak of the person of the ID token."""
        if not self.metadata.userinfo_endpoint:
            return {}
        headers = {"Authorization": f"Bearer {access_token}"}
        found = self._fetch("userinfo", self.metadata.userinfo_endpoint, headers=headers, signed=self._signed_userinfo)
        if found.get("sub") != payload["sub"]:
            raise Refused(Reason.INVALID, "userinfo speaks of somebody else")
        return found

    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> User:
        """The user of verified claims; groups come from the ID token, else from userinfo."""
        claims, path = payload, self.provider.groups_claim
        groups = groups_in(claims, path)
        if groups is None:
            claims = {**self.get_userinfo(access_token, id_token, payload), **payload}
            groups = groups_in(claims, path)
        if groups is None and path in (claims.get("_claim_names") or {}):
            # Too many groups to say (Entra does so above 200). Nobody loses a role over that.
            raise Refused(Reason.GROUPS_UNKNOWN, "the provider keeps the groups elsewhere")
        address = self.request.META.get("REMOTE_ADDR") or None
        by = Actor("system", f"identity provider {self.provider.slug}"[:100], address)
        return admit(self.provider, claims, groups or [], by=by, now=self.now)

    def get_user(self, user_id: Any) -> User | None:
        """The user of a session, for as long as they are active, have a role, and the provider vouches for them."""
        vouched = Identity.objects.filter(user=OuterRef("pk"), provider__is_active=True)
        return those_who_may_enter(User.objects.filter(Exists(vouched), pk=user_id)).first()

    def _signed_userinfo(self, text: str) -> dict[str, Any]:
        issuer, client_id = self.metadata.issuer, self.provider.client_id
        return verify_userinfo(text, find_key=self._key, issuer=issuer, client_id=client_id, now=self.now)

    def _key(self, kid: str | None, alg: str) -> PyJWK:
        return discovery.key_for(self.provider, self.metadata, kid=kid, alg=alg, now=self.now)

    def _fetch(self, what: str, url: str, **request: Any) -> dict[str, Any]:
        try:
            return fetch_json(url, **request)
        except FetchFailed as failed:
            if failed.is_down:
                discovery.failure(self.provider, what, failed, self.now)
                raise Refused(Reason.UNREACHABLE, f"{what}: {failed}") from failed
            raise Refused(Reason.REFUSED_THERE, f"{what}: {failed}") from failed
