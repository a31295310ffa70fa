"""Permissions and roles as data one can read."""

from __future__ import annotations

from enum import StrEnum

from django.db import models


class Permission(StrEnum):
    SWARM_CREATE = "swarm:create"
    SWARM_READ = "swarm:read"
    SWARM_UPDATE = "swarm:update"
    SWARM_DELETE = "swarm:delete"
    SWARM_TERMINATE = "swarm:terminate"
    POOL_READ = "pool:read"
    POOL_UPDATE = "pool:update"
    BUDGET_READ = "budget:read"
    BUDGET_UPDATE = "budget:update"
    COST_READ = "cost:read"
    COST_UPDATE = "cost:update"
    COST_RECORD = "cost:record"
    WEBHOOK_MANAGE = "webhook:manage"
    AUDIT_READ = "audit:read"
    USER_MANAGE = "user:manage"


class Resource(StrEnum):
    """What an action is done to, as access policies tell it apart."""

    SWARM = "swarm"
    TASK = "task"
    POOL = "pool"
    BUDGET = "budget"
    COST = "cost"
    WEBHOOK = "webhook"
    AUDIT = "audit"
    USER = "user"
    TOKEN = "token"

    @classmethod
    def of(cls, permission: Permission) -> Resource:
        """What a permission is about, unless the act says otherwise: the noun in it."""
        return cls(permission.partition(":")[0])


class Role(models.TextChoices):
    ADMIN = "admin"
    DEVELOPER = "developer"
    OPERATOR = "operator"
    FINANCE = "finance"
    COMPLIANCE = "compliance"
    VIEWER = "viewer"


P = Permission
PERMISSIONS: dict[str, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission) - {P.POOL_UPDATE},
    Role.DEVELOPER: frozenset(
        {
            P.SWARM_CREATE,
            P.SWARM_READ,
            P.SWARM_UPDATE,
            P.POOL_READ,
            P.BUDGET_READ,
            P.COST_READ,
            P.COST_RECORD,
            P.WEBHOOK_MANAGE,
        }
    ),
    Role.OPERATOR: frozenset(
        {
            P.SWARM_CREATE,
            P.SWARM_READ,
            P.SWARM_UPDATE,
            P.SWARM_TERMINATE,
            P.POOL_READ,
            P.BUDGET_READ,
            P.COST_READ,
            P.COST_RECORD,
        }
    ),
    Role.FINANCE: frozenset({P.BUDGET_READ, P.BUDGET_UPDATE, P.COST_READ, P.COST_UPDATE}),
    Role.COMPLIANCE: frozenset({P.SWARM_READ, P.AUDIT_READ}),
    Role.VIEWER: frozenset({P.SWARM_READ, P.POOL_READ, P.BUDGET_READ, P.COST_READ}),
}
"""What a role may do inside its tenant. The pool belongs to the platform: only platform admins change it.

``cost:record`` is for those who run agents: it spends, as submitting a swarm does, wherever the agents run. Finance
corrects what was spent (``cost:update``), which is another thing than reporting it. ``webhook:manage`` is for those who
integrate programs: what webhooks tell, a developer can read anyway.
"""

ON_ONE_SWARM = frozenset({P.SWARM_READ, P.SWARM_UPDATE, P.SWARM_DELETE, P.SWARM_TERMINATE, P.COST_READ, P.BUDGET_READ})
"""What a grant can give on a single swarm: the rest is about a tenant or the platform."""


def granted(gives: str) -> frozenset[Permission]:
    """What a grant of a role or a permission gives on its swarm.

    Of a role, that which concerns a single swarm. ``swarm:read`` is always with it: nobody steers what they cannot see.
    Empty for a name that is neither (any more).
    """
    held = PERMISSIONS.get(gives) or frozenset(p for p in P if p == gives)
    on_it = held & ON_ONE_SWARM
    return on_it | {P.SWARM_READ} if on_it else on_it


MEANING: dict[Permission, str] = {
    P.SWARM_CREATE: "submit swarms",
    P.SWARM_READ: "see swarms, their tasks, results, events and archives",
    P.SWARM_UPDATE: "pause, resume and retry",
    P.SWARM_DELETE: "delete what is kept of swarms",
    P.SWARM_TERMINATE: "stop swarms for good",
    P.POOL_READ: "see how full the resource pool is",
    P.POOL_UPDATE: "make the pool larger or smaller",
    P.BUDGET_READ: "see budgets and how they stand",
    P.BUDGET_UPDATE: "make and change budgets",
    P.COST_READ: "see the ledger, reports, statements and advice",
    P.COST_UPDATE: "correct what is owed, close months, set prices and rates",
    P.COST_RECORD: "report costs of agents elsewhere, and reserve for them",
    P.WEBHOOK_MANAGE: "make, change and test webhooks, and repeat deliveries",
    P.AUDIT_READ: "read the audit trail, and see who can do what",
    P.USER_MANAGE: "manage people, grants, tokens and access policies",
}
"""What each permission is for, in the words of the reference page."""
