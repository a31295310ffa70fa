"""The beginning and the end of sessions, and what was refused, in the audit trail; unlocking who was locked out."""

from __future__ import annotations

import uuid
from typing import Any

from axes.models import AccessAttempt
from axes.signals import user_locked_out
from django.contrib.auth.signals import user_login_failed
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.tenants.models import IdentityProvider, User
from apps.tenants.oidc.refusals import Refused

UNKNOWN = User(pk=uuid.UUID(int=0))
"""Stands for a name that no user has. The name is not recorded: people type passwords where names belong."""


def address_of(request: HttpRequest) -> str | None:
    """Where a request comes from; behind trusted proxies, what they say (``portal.addresses``)."""
    return request.META.get("REMOTE_ADDR") or None


def note_login(user: User, request: HttpRequest, *, provider: IdentityProvider | None = None) -> None:
    """Somebody logged in: with a password, or through a provider."""
    by = trail.Actor("user", str(user.pk), address_of(request))
    trail.record(by, "session:login", user, tenant_id=None, details=_way(provider))


def note_logout(user: User, request: HttpRequest, *, provider: IdentityProvider | None = None) -> None:
    """Somebody logged out by themselves."""
    by = trail.Actor("user", str(user.pk), address_of(request))
    trail.record(by, "session:logout", user, tenant_id=None, details=_way(provider))


def note_refusal(refused: Refused, request: HttpRequest, provider: IdentityProvider | None) -> AuditEntry:
    """A login through a provider was refused; the entry, by whose number an administrator finds it."""
    details = _way(provider)
    if refused.groups is not None:
        details["groups"] = str(refused.groups)
    return trail.record(
        _anonymous(request, refused.user),
        "session:refuse",
        refused.user or UNKNOWN,
        tenant_id=None,
        success=False,
        reason=refused.reason,
        details=details,
    )


def unlock(attempt: AccessAttempt, *, by: trail.Actor, reason: str = "") -> int:
    """Forgets the failed logins with a name from an address, so that its owner may try again; how many there were."""
    with transaction.atomic():
        same = AccessAttempt.objects.filter(username=attempt.username, ip_address=attempt.ip_address)
        failures = int(sum(same.values_list("failures_since_start", flat=True)))
        details = {"address": str(attempt.ip_address), "failures": failures}
        trail.record(by, "session:unlock", _named(attempt.username), tenant_id=None, reason=reason, details=details)
        same.delete()
    return failures


@receiver(user_login_failed)
def note_failure(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """A name and a password did not match, or were not looked at because of a lock-out."""
    if request is None:
        return
    # The failure that locks out was looked at, and so has a count; later ones have none.
    unseen = getattr(request, "axes_locked_out", False) and _failures(request) is None
    reason = "locked_out" if unseen else "wrong_name_or_password"
    user = _named(credentials.get("username"))
    trail.record(
        _anonymous(request), "session:fail", user, tenant_id=None, success=False, reason=reason, details=_way(None)
    )


@receiver(user_locked_out)
def note_lock(sender: Any, request: HttpRequest, username: str | None, **_: Any) -> None:
    """A name was locked out from an address. Tries while it lasts are failures, told above, and no new lock-outs."""
    if (failures := _failures(request)) is None:
        return
    details = {"failures": failures}
    trail.record(_anonymous(request), "session:lock", _named(username), tenant_id=None, success=False, details=details)


def _failures(request: HttpRequest) -> int | None:
    """How many failures django-axes counted, when it counted this one."""
    found: int | None = getattr(request, "axes_failures_since_start", None)
    return found


def _named(username: str | None) -> User:
    return User.objects.filter(username=username).first() or UNKNOWN


def _anonymous(request: HttpRequest, user: User | None = None) -> trail.Actor:
    return trail.Actor("user", str(user.pk) if user else "anonymous", address_of(request))


def _way(provider: IdentityProvider | None) -> dict[str, str]:
    return {"provider": provider.slug} if provider else {"provider": "local"}
