"""What access policies had to say in a request goes to the audit trail, after the request's own transaction."""

from __future__ import annotations

from collections.abc import Callable

from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from apps.audit import trail
from apps.tenants.access import AccessDenied, Noted, Principal
from apps.tenants.models import AccessPolicy
from portal.money import usd_text
from portal.refusals import forbidden

LOOKS_NOTED_EVERY_S = 3600
"""Looking at rows is noted once an hour for each person, policy and permission; acts are noted each time."""


class PolicyTrail:
    """Writes down each act that a policy denied, or, under test, would have denied."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        kept = getattr(request, "_principal", None)
        if kept is not None and kept[2].noted:
            write_down(kept[2])
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """A denial that no page told by itself is a page that tells it."""
        return forbidden(request, exception) if isinstance(exception, AccessDenied) else None


def write_down(by: Principal) -> None:
    """One audit entry for each thing that policies denied or would have denied to a principal."""
    with transaction.atomic():
        for note in by.noted:
            if note.is_act or _is_new(by, note):
                _record(by, note)
    by.noted.clear()


def _is_new(by: Principal, note: Noted) -> bool:
    key = f"policy-look:{note.policy.id}:{by.kind}:{by.ref}:{note.permission}:{note.tenant_id}:{note.policy.enforced}"
    return bool(cache.add(key, 1, LOOKS_NOTED_EVERY_S))


def _record(by: Principal, note: Noted) -> None:
    enforced = note.policy.enforced
    trail.record(
        by,
        "policy:deny" if enforced else "policy:would_deny",
        AccessPolicy(pk=note.policy.id),
        tenant_id=note.tenant_id,
        success=not enforced,
        reason=f"{note.policy.name}: {note.permission}",
        details={
            "permission": note.permission,
            "resource": note.resource,
            "swarm": str(note.swarm_id) if note.swarm_id else None,
            "amount_usd": usd_text(note.amount) if note.amount is not None else None,
        },
    )
