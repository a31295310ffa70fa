"""What a provider publishes: its endpoints and its keys, fetched now and then, with the last good copy kept."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog

from apps.tenants.models.identity import KEPT_FOR, IdentityProvider
from apps.tenants.oidc.fetching import FetchFailed, fetch_json
from apps.tenants.oidc.refusals import Reason, Refused

FRESH_FOR = dt.timedelta(hours=1)
"""After this long, endpoints and keys are fetched again."""
SEEN_UP_FOR = dt.timedelta(seconds=30)
"""Before a person is sent to a provider, it must have answered within this time."""
KEYS_AGAIN_AFTER = dt.timedelta(seconds=10)
"""An unknown key id has the keys fetched again, but not more often than this."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A provider's endpoints (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    secret_in_form: bool = False
    """Whether the client's secret goes into the form rather than into the Authorization header."""
    says_issuer: bool = False
    """Whether each answer of its authorization endpoint says who answers (RFC 9207)."""


def metadata_of(provider: IdentityProvider, *, now: dt.datetime, must_be_up: bool = False) -> Metadata:
    """The provider's endpoints; from the last good copy when it does not answer, unless it ``must_be_up``.

    Raises Refused (provider_unreachable). A provider that has just failed is not asked again.
    """
    kept = _kept_metadata(provider, now)
    fresh_for = SEEN_UP_FOR if must_be_up else FRESH_FOR
    if kept and provider.discovered_at and now - provider.discovered_at < fresh_for and not provider.is_paused(now):
        return kept
    if not provider.is_paused(now):
        try:
            return _discover(provider, now)
        except FetchFailed as failed:
            failure(provider, "discovery", failed, now)
    if kept and not must_be_up:
        return kept
    raise Refused(Reason.UNREACHABLE, provider.last_error)


def failure(provider: IdentityProvider, what: str, failed: FetchFailed, now: dt.datetime) -> None:
    """Notes that a provider did not answer, and says it in the log."""
    log.warning("identity_provider_failed", provider=provider.slug, what=what, error=str(failed))
    provider.note_failure(f"{what}: {failed}", now=now)


def discover(provider: IdentityProvider, *, now: dt.datetime) -> tuple[Metadata, int]:
    """Asks the provider now, whatever is kept: its endpoints, and the number of its keys. Raises Refused."""
    try:
        metadata = _discover(provider, now)
        return metadata, len(_fetch_keys(provider, metadata, now))
    except FetchFailed as failed:
        failure(provider, "discovery", failed, now)
        raise Refused(Reason.UNREACHABLE, str(failed)) from failed


def _discover(provider: IdentityProvider, now: dt.datetime) -> Metadata:
    document = fetch_json(provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
    metadata = parse_metadata(document, provider.issuer)
    provider.note_discovery(document, now=now)
    return metadata


def _kept_metadata(provider: IdentityProvider, now: dt.datetime) -> Metadata | None:
    if provider.discovery is None or provider.discovered_at is None or now - provider.discovered_at > KEPT_FOR:
        return None
    try:
        return parse_metadata(provider.discovery, provider.issuer)
    except FetchFailed:  # kept under another issuer, before the row was edited
        return None


def parse_metadata(document: dict[str, Any], issuer: str) -> Metadata:
    """The endpoints in a discovery document. Raises FetchFailed when it is another's, or not complete."""
    if str(document.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
        raise FetchFailed("its discovery document names another issuer")
    endpoints: dict[str, str] = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"):
        url = document.get(name)
        if not url and name in ("userinfo_endpoint", "end_session_endpoint"):
            continue
        parts = urlsplit(url if isinstance(url, str) else "")
        if not parts.hostname or parts.scheme not in {"https", urlsplit(issuer).scheme}:
            raise FetchFailed(f"its discovery document has no usable {name}")
        endpoints[name] = str(url)
    ways = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Metadata(
        issuer=str(document["issuer"]),
        secret_in_form="client_secret_basic" not in ways,
        says_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        **endpoints,
    )


# -- keys ------------------------------------------------------------------------------------------------------------


def key_for(
    provider: IdentityProvider, metadata: Metadata, *, kid: str | None, alg: str, now: dt.datetime
) -> jwt.PyJWK:
    """The key that a token says it was signed with. Raises Refused (token_invalid, provider_unreachable).

    A key that is not known has them fetched again once: the provider may have changed its keys.
    """
    keys, age = _kept_keys(provider, metadata, now)
    found = _pick(keys or [], kid, alg)
    too_old = age is None or age > FRESH_FOR
    if too_old or (found is None and (age is None or age >= KEYS_AGAIN_AFTER)):
        try:
            found = _pick(_fetch_keys(provider, metadata, now), kid, alg)
        except FetchFailed as failed:
            failure(provider, "keys", failed, now)
            if found is None:
                raise Refused(Reason.UNREACHABLE, str(failed)) from failed
    if found is None:
        raise Refused(Reason.INVALID, "signed with a key that the provider does not publish")
    return found


def _kept_keys(
    provider: IdentityProvider, metadata: Metadata, now: dt.datetime
) -> tuple[list[dict[str, Any]] | None, dt.timedelta | None]:
    kept, at = provider.keys, provider.keys_at
    if not kept or at is None or kept.get("uri") != metadata.jwks_uri or now - at > KEPT_FOR:
        return None, None
    return kept["keys"], now - at


def _fetch_keys(provider: IdentityProvider, metadata: Metadata, now: dt.datetime) -> list[dict[str, Any]]:
    listed = fetch_json(metadata.jwks_uri).get("keys")
    if not isinstance(listed, list):
        raise FetchFailed("its keys cannot be read")
    keys = [key for key in listed if isinstance(key, dict) and key.get("kty") in {"RSA", "EC", "OKP"}]
    provider.note_keys({"uri": metadata.jwks_uri, "keys": keys}, now=now)
    return keys


def _pick(keys: list[dict[str, Any]], kid: str | None, alg: str) -> jwt.PyJWK | None:
    """The one key with this id (or the only one that fits, for a token without an id) that can verify ``alg``."""
    fitting = []
    for key in keys:
        if (kid is not None and key.get("kid") != kid) or key.get("use", "sig") != "sig" or key.get("alg", alg) != alg:
            continue
        try:
            fitting.append(jwt.PyJWK(key, algorithm=alg))
        except jwt.PyJWTError:  # of another kind than the algorithm needs
            continue
    return fitting[0] if fitting and (kid is not None or len(fitting) == 1) else None
