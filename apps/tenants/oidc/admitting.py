"""From what a provider says of a person to a user with roles: who it is, and what their groups give and take away."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import uuid
from collections.abc import Iterable
from typing import Any

from django.db import IntegrityError, transaction

from apps.audit import trail
from apps.tenants.access import may_enter
from apps.tenants.models import GroupRule, Identity, IdentityProvider, Membership, User
from apps.tenants.oidc.refusals import Reason, Refused

MOST_GROUPS = 2_000


def groups_in(claims: dict[str, Any], path: str) -> list[str] | None:
    """The groups that the claims name at a dotted path; None when they do not speak of groups."""
    found: Any = claims.get(path)
    if found is None:  # a claim may have dots in its own name: https://desk.example/groups
        found = claims
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if found is None:
        return None
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [group for group in listed[:MOST_GROUPS] if isinstance(group, str)]


def admit(
    provider: IdentityProvider, claims: dict[str, Any], groups: list[str], *, by: trail.Actor, now: dt.datetime
) -> User:
    """The user behind verified claims, with exactly the roles that the groups give. Raises Refused.

    A first login makes the account, but only when some rule gives it a role. What the groups no longer give is taken
    away even when the login is then refused.
    """
    try:
        return _admit(provider, claims, groups, by=by, now=now)
    except IntegrityError:
        # Meanwhile an administrator linked this identity, or a login through another provider took the free name.
        return _admit(provider, claims, groups, by=by, now=now)


def _admit(
    provider: IdentityProvider, claims: dict[str, Any], groups: list[str], *, by: trail.Actor, now: dt.datetime
) -> User:
    with transaction.atomic():
        # One login at a time for a provider: two first logins of one person must not make two accounts. Not against
        # rows that refer to it: an administrator who links this identity meanwhile would wait for us, and we for them.
        if not IdentityProvider.objects.select_for_update(no_key=True).filter(pk=provider.pk).first():
            raise Refused(Reason.STATE, "the provider was deleted meanwhile")
        rules = _first_matching(provider.rules.select_related("tenant"), groups)
        identity = Identity.objects.select_related("user").filter(issuer=claims["iss"], subject=claims["sub"]).first()
        if identity is None:
            if not rules:
                raise Refused(Reason.NO_ROLE, "no rule matches", groups=len(groups))
            if not provider.creates_accounts:
                raise Refused(Reason.NO_ACCOUNT, f"nobody is linked to subject {claims['sub']}")
            identity = _create(provider, claims, by)
        user = identity.user
        if not user.is_active:
            raise Refused(Reason.DEACTIVATED, user=user)
        _update_person(user, claims)
        _give_and_take(user, provider, rules, by)
        entered = may_enter(user)
        if entered:
            Identity.objects.filter(pk=identity.pk).update(last_login_at=now)
    if not entered:
        raise Refused(Reason.NO_ROLE, "no rule matches any more", user=user, groups=len(groups))
    return user


def withdraw(user: User, provider: IdentityProvider, *, by: trail.Actor) -> None:
    """Takes away every role that the provider's groups gave to a user: the account is no longer theirs to vouch for."""
    with transaction.atomic():
        _give_and_take(user, provider, {}, by)


_Place = tuple[uuid.UUID, str]


def _first_matching(rules: Iterable[GroupRule], groups: list[str]) -> dict[_Place, GroupRule]:
    """For each tenant and role that the groups give, the rule that does."""
    found: dict[_Place, GroupRule] = {}
    for rule in rules:
        if (rule.tenant_id, rule.role) not in found and any(rule.matches(group) for group in groups):
            found[rule.tenant_id, rule.role] = rule
    return found


def _give_and_take(user: User, provider: IdentityProvider, rules: dict[_Place, GroupRule], by: trail.Actor) -> None:
    held = {(row.tenant_id, row.role): row for row in Membership.objects.filter(user=user, provider=provider)}
    for place, row in held.items():
        if place not in rules:
            _record(by, "membership:delete", row, f"No group at {provider} gives it any more.")
            row.delete()
    for place, rule in rules.items():
        if place not in held:
            row = Membership.objects.create(user=user, tenant_id=place[0], role=place[1], provider=provider)
            _record(by, "membership:create", row, f"Group rule {rule.group!r} of {provider}.")


def _record(by: trail.Actor, action: str, row: Membership, reason: str) -> None:
    details = {"user": str(row.user_id), "role": row.role}
    trail.record(by, action, row, tenant_id=row.tenant_id, reason=reason, details=details)


def _create(provider: IdentityProvider, claims: dict[str, Any], by: trail.Actor) -> Identity:
    user = User(username=_free_name(claims))
    user.set_unusable_password()
    user.save()
    identity = Identity.objects.create(user=user, provider=provider, issuer=claims["iss"], subject=claims["sub"])
    trail.record(by, "user:create", user, tenant_id=None, reason=f"First login with {provider}.")
    trail.record(by, "identity:create", identity, tenant_id=None, details={"user": str(user.pk)})
    return identity


def _free_name(claims: dict[str, Any]) -> str:
    """A user name that nobody has: the preferred one where that is free, else with a piece of the identity's hash."""
    email = claims.get("email")
    wanted = claims.get("preferred_username") or (email.partition("@")[0] if isinstance(email, str) else "") or "user"
    name = re.sub(r"[^\w.@+-]+", "-", str(wanted)).strip("-")[:120] or "user"
    if not User.objects.filter(username__iexact=name).exists():
        return name
    digest = hashlib.sha256(f"{claims['iss']} {claims['sub']}".encode()).hexdigest()
    return f"{name}-{digest[:10]}"


def _update_person(user: User, claims: dict[str, Any]) -> None:
    """Name and address as the provider knows them. Accounts with a password of their own are left as they are."""
    if user.has_usable_password():
        return
    wanted = {
        "email": (_text(claims.get("email")), 254),
        "first_name": (_text(claims.get("given_name")), 150),
        "last_name": (_text(claims.get("family_name")), 150),
    }
    changed = [name for name, (value, most) in wanted.items() if value and value[:most] != getattr(user, name)]
    for name in changed:
        value, most = wanted[name]
        setattr(user, name, value[:most])
    if changed:
        user.save(update_fields=changed)


def _text(value: object) -> str:
    return value.replace("\x00", "").strip() if isinstance(value, str) else ""
