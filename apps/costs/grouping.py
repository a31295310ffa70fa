"""What costs are grouped by, and what to call the groups.

Tenants, users and kinds are known here; an upper layer says how its own things are called (``register_labels``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

from django.db import connection

from apps.costs.models import Kind
from apps.privacy.models import DataSubject
from apps.tenants.models import Tenant


class By(StrEnum):
    """What costs are grouped by. The key of a group is an id for tenant, user and swarm, else a name."""

    TENANT = "tenant"
    USER = "user"
    SWARM = "swarm"
    AGENT = "agent"
    MODEL = "model"
    KIND = "kind"


Names = Callable[[Collection[str]], Mapping[str, str]]


def register_labels(by: By, names: Names) -> None:
    """Says how keys of a grouping are called; call it in the app's ``ready()``.

    ``names(keys)`` answers in one query, and leaves out keys that it does not know.
    """
    _LABELS[by] = names


def labels(by: By, keys: Collection[str]) -> Mapping[str, str]:
    """What to call these keys; those that nothing is known of are left out. One query; two for swarms."""
    names = _LABELS.get(by)
    found = dict(names(keys)) if names and keys else {}
    if by == By.SWARM and (unnamed := [key for key in keys if key not in found]):
        found |= _runs_elsewhere(unnamed)
    return found


def _runs_elsewhere(keys: Collection[str]) -> Mapping[str, str]:
    """The names of runs elsewhere, which only their ledger entries know."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT k.id, l.run FROM unnest(%s::uuid[]) AS k (id)
            JOIN LATERAL (SELECT run FROM costs_ledgerentry WHERE swarm_id = k.id LIMIT 1) AS l ON l.run <> ''
            """,
            [list(keys)],
        )
        return {str(id): f"{run} (elsewhere)" for id, run in cursor}


def _tenants(keys: Collection[str]) -> Mapping[str, str]:
    return {str(id): name for id, name in Tenant.objects.filter(pk__in=keys).values_list("pk", "name")}


def _users(keys: Collection[str]) -> Mapping[str, str]:
    return {str(id): name for id, name in DataSubject.objects.filter(pk__in=keys).values_list("pk", "reference")}


_LABELS: dict[By, Names] = {By.TENANT: _tenants, By.USER: _users, By.KIND: lambda keys: dict(Kind.choices)}
