"""Putting access policies into force and out of it, each act one transaction with its audit row."""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from apps.audit import trail
from apps.tenants.access import AccessDenied, Principal
from apps.tenants.models import AccessPolicy, CannotMovePolicy, PolicyState
from apps.tenants.policies import Policy, judge
from apps.tenants.roles import Permission


def verify_manage(policy: AccessPolicy, by: Principal) -> None:
    """Raises AccessDenied unless they may manage it: those of the platform are for platform admins."""
    if policy.tenant_id is None:
        if not by.everything:
            raise AccessDenied("A policy of the platform is managed by platform admins.")
        return
    by.verify(Permission.USER_MANAGE, policy.tenant_id)


def move(policy: AccessPolicy, state: str, *, by: Principal, reason: str = "", now: dt.datetime) -> AccessPolicy:
    """Puts a policy into another state, at once and for everybody.

    Raises CannotMovePolicy when it cannot follow its present state, or when enabling it would keep whoever does so from
    disabling it again; AccessDenied for those who may not manage it.
    """
    verify_manage(policy, by)
    with transaction.atomic():
        locked = AccessPolicy.objects.select_for_update().get(pk=policy.pk)
        before = locked.state
        locked.move_to(state)
        if state == PolicyState.ENABLED:
            verify_not_locked_out(locked.as_value, by, now=now)
        locked.save(update_fields=["state", "changed_at"])
        trail.record(
            by,
            "accesspolicy:update",
            locked,
            tenant_id=locked.tenant_id,
            reason=reason.strip(),
            details={"state": [before, state]},
        )
    return locked


def verify_not_locked_out(policy: Policy, by: Principal, *, now: dt.datetime) -> None:
    """Raises CannotMovePolicy when the policy, in force, would now deny its own manager to manage it."""
    if by.everything or policy.tenant_id is None:
        return
    if judge(policy, by.facts(Permission.USER_MANAGE, policy.tenant_id)).denies:
        raise CannotMovePolicy(
            "It would deny user:manage to you at once, and you could not disable it again. "
            "Leave user:manage out of its actions, or except yourself."
        )
