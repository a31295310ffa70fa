"""Verifying an ID token (OpenID Connect Core 1.0, section 3.1.3.7), claim by claim, by a clock that is passed in."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

import jwt

from apps.tenants.oidc.refusals import Reason, Refused

LEEWAY = dt.timedelta(seconds=60)
"""By how much the clocks of the provider and of this machine may differ."""
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
)
"""Signatures by a private key. Never ``none``, and no HMAC: its key would be shared, or be the published one."""

FindKey = Callable[[str | None, str], jwt.PyJWK]
"""From key id and algorithm to the key; raises Refused."""


def verify_id_token(
    text: str, *, find_key: FindKey, issuer: str, client_id: str, nonce: str | None, now: dt.datetime
) -> dict[str, Any]:
    """The claims of a token that was made for this client, by this issuer, for this login, and counts now.

    Raises Refused.
    """
    claims = _signed_claims(text, find_key)
    if claims.get("iss") != issuer:
        raise Refused(Reason.INVALID, "another issuer")
    _verify_audience(claims, client_id)
    _verify_times(claims, now)
    said = claims.get("nonce")
    if not nonce or not isinstance(said, str) or not compare_digest(said.encode(), nonce.encode()):
        raise Refused(Reason.INVALID, "another login's nonce")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or len(subject) > 255 or not subject.isprintable():
        raise Refused(Reason.INVALID, "no usable subject")
    return claims


def verify_userinfo(text: str, *, find_key: FindKey, issuer: str, client_id: str, now: dt.datetime) -> dict[str, Any]:
    """The claims of a signed answer of the userinfo endpoint (section 5.3.2): what it says of issuer, audience and end
    must be right, and need not be there. Raises Refused.
    """
    claims = _signed_claims(text, find_key)
    if claims.get("iss", issuer) != issuer:
        raise Refused(Reason.INVALID, "userinfo of another issuer")
    if "aud" in claims:
        _verify_audience(claims, client_id)
    ends = claims.get("exp", now.timestamp())
    if type(ends) not in (int, float) or ends <= now.timestamp() - LEEWAY.total_seconds():
        raise Refused(Reason.EXPIRED, "userinfo has expired")
    return claims


def _signed_claims(text: str, find_key: FindKey) -> dict[str, Any]:
    try:
        header = jwt.get_unverified_header(text)
        alg, kid = header.get("alg"), header.get("kid")
        if alg not in ALGORITHMS or not (kid is None or isinstance(kid, str)):
            raise Refused(Reason.INVALID, f"algorithm {str(alg)[:20]!r} is not accepted")
        claims = json.loads(jwt.PyJWS().decode(text, key=find_key(kid, alg), algorithms=[alg]))
    except (jwt.PyJWTError, ValueError) as error:
        raise Refused(Reason.INVALID, f"not a token with a good signature ({type(error).__name__})") from error
    if not isinstance(claims, dict):
        raise Refused(Reason.INVALID, "its payload is not an object")
    return claims


def _verify_audience(claims: dict[str, Any], client_id: str) -> None:
    named = claims.get("aud")
    audience = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    authorized = claims.get("azp")
    if client_id not in audience:
        raise Refused(Reason.AUDIENCE, "made for another client")
    if authorized != client_id and (authorized is not None or len(audience) > 1):
        raise Refused(Reason.AUDIENCE, "handed out to another client")


def _verify_times(claims: dict[str, Any], now: dt.datetime) -> None:
    seconds, leeway = now.timestamp(), LEEWAY.total_seconds()
    times = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
    if not {"exp", "iat"} <= times.keys() or not all(type(at) in (int, float) for at in times.values()):
        raise Refused(Reason.INVALID, "its times are missing or no numbers")
    if times["exp"] <= seconds - leeway:
        raise Refused(Reason.EXPIRED, f"expired {seconds - times['exp']:.0f} s ago")
    if max(times["iat"], times.get("nbf", times["iat"])) > seconds + leeway:
        raise Refused(Reason.INVALID, "made in the future; compare the clocks")
