"""Writing the audit trail: the row is in the transaction of the act it records, so neither stands without the other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models

from apps.audit.models import AuditEntry


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. ``kind`` is user, token, command or system; ``ref`` a user's id or a process's name."""

    kind: str
    ref: str
    address: str | None = None


ORCHESTRATOR = Actor("system", "orchestrator")
BUDGETS = Actor("system", "budgets")
"""A hard budget that stops what it has no room for."""


def record(
    by: Actor,
    action: str,
    resource: models.Model,
    *,
    tenant_id: uuid.UUID | None,
    success: bool = True,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Writes one audit entry in the current transaction. ``action`` is a permission string ("swarm:terminate")."""
    return AuditEntry.objects.create(
        actor_kind=by.kind,
        actor=by.ref,
        address=by.address,
        action=action,
        resource_kind=resource._meta.model_name or "",
        resource_id=str(resource.pk),
        tenant_id=tenant_id,
        success=success,
        reason=reason,
        details=dict(details or {}),
    )
