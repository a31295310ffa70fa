"""Making and changing budgets: each act with its audit entry and event, in one transaction."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from apps.audit.trail import Actor, record
from apps.costs import alerting
from apps.costs.models import Budget, BudgetPeriod, Cause, Enforcement, Period, Scope
from apps.costs.models.budget import default_alert_levels
from apps.events import log as events
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.money import usd_text
from portal.notify import Channel, notify


def create_budget(
    *,
    tenant: Tenant,
    name: str,
    limit: int,
    by: Actor,
    scope: str = Scope.TENANT,
    target: str = "",
    period: str = Period.MONTHLY,
    enforcement: str = Enforcement.HARD,
    alert_levels: Sequence[int] | None = None,
    note: str = "",
) -> Budget:
    """Makes a budget of ``limit`` nano-dollars. It counts what is spent from now on, not what was spent before.

    ``alert_levels`` are percents of the limit, in any order; None means 80, 90 and 100.

    Raises AccessDenied, or ValidationError with every field that is wrong.
    """
    _verify(by, tenant.pk, amount=limit)
    return _create(
        Budget(
            tenant=tenant,
            name=name.strip(),
            limit=limit,
            scope=scope,
            target=target.strip(),
            period=period,
            enforcement=enforcement,
            alert_levels=default_alert_levels() if alert_levels is None else sorted(alert_levels),
            note=note,
        ),
        by=by,
    )


def set_run_budget(swarm_id: uuid.UUID, tenant: Tenant, limit: int, name: str, *, by: Actor | None = None) -> Budget:
    """The hard budget that a spec sets for its own run, in nano-dollars. ``name`` is the swarm's.

    It needs no permission: it only restricts the run of whoever sets it. Without ``by`` it has no audit entry of its
    own, for when submitting the run has one. Raises ValidationError.
    """
    budget = Budget(
        tenant=tenant,
        # The last part of a swarm's id is random: budgets of runs of one name must not share theirs.
        name=f"{name[:70]} (run {str(swarm_id)[-12:]})",
        limit=limit,
        scope=Scope.SWARM,
        target=str(swarm_id),
        period=Period.RUN,
    )
    return _create(budget, by=by)


def change_budget(
    budget: Budget,
    *,
    by: Actor,
    limit: int | None = None,
    name: str | None = None,
    note: str | None = None,
    is_active: bool | None = None,
    enforcement: str | None = None,
    alert_levels: Sequence[int] | None = None,
    now: dt.datetime | None = None,
) -> Budget:
    """Changes what is given of a budget, for its open periods too; the budget as it is now.

    A limit below what is already committed refuses every further call; what is committed stands. The next reservation
    sees it, and so do swarms that wait for the budget. Alerts are raised and withdrawn as what is spent now asks for.
    Raises AccessDenied, or ValidationError with every field that is wrong.
    """
    _verify(by, budget.tenant_id, amount=max(budget.limit, limit or 0))
    now = now or timezone.now()
    wanted: dict[str, Any] = {
        "limit": limit,
        "name": name if name is None else name.strip(),
        "note": note,
        "is_active": is_active,
        "enforcement": enforcement,
        "alert_levels": alert_levels if alert_levels is None else sorted(alert_levels),
    }
    with transaction.atomic():
        # The row before its periods, as whoever makes a period does.
        locked = Budget.objects.select_for_update(no_key=True).get(pk=budget.pk)
        before = {field: getattr(locked, field) for field in wanted}
        for field, value in wanted.items():
            if value is not None:
                setattr(locked, field, value)
        _validate(locked)
        changed = {field: getattr(locked, field) for field in wanted if getattr(locked, field) != before[field]}
        if not changed:
            return locked
        locked.save(update_fields=list(changed))
        alerts = []
        if changed.keys() & {"limit", "enforcement", "alert_levels"}:
            alerts = _change_open_periods(locked, now=now)
        details = {field: [before[field], value] for field, value in changed.items()}
        _write_down("budget.changed", locked, by=by, details=_for_people(details))
        events.emit(alerts, now=now)
        notify(Channel.ADMIT)
    return locked


def deactivate_budget(budget: Budget, *, by: Actor) -> Budget:
    """Stops watching calls with this budget; calls in flight are still settled in it. Raises AccessDenied."""
    return change_budget(budget, by=by, is_active=False)


def _verify(by: Actor, tenant_id: uuid.UUID, *, amount: int) -> None:
    if isinstance(by, Principal):
        by.verify(Permission.BUDGET_UPDATE, tenant_id, amount=amount)


def _create(budget: Budget, *, by: Actor | None) -> Budget:
    with transaction.atomic():
        _validate(budget)
        budget.save(force_insert=True)
        details = {
            field: getattr(budget, field)
            for field in ("name", "scope", "target", "period", "enforcement", "limit", "alert_levels")
        }
        _write_down("budget.created", budget, by=by, details=_for_people(details))
    return budget


def _validate(budget: Budget) -> None:
    problems: dict[str, list[str]] = {}
    try:
        budget.full_clean()
    except ValidationError as error:
        problems.update({field: list(texts) for field, texts in error.message_dict.items()})
    if budget.scope in (Scope.END_USER, Scope.SWARM) and budget.target:
        try:
            budget.target = str(uuid.UUID(budget.target))
        except ValueError:
            noun = "data subject" if budget.scope == Scope.END_USER else "swarm"
            problems["target"] = [f"Must be the id (a UUID) of a {noun}, or empty for each one separately."]
    if problems:
        raise ValidationError(problems)


def _change_open_periods(budget: Budget, *, now: dt.datetime) -> list[events.NewEvent]:
    """Gives limit and alert levels to the periods that calls can still be charged to; the events of their alerts.

    What was announced of them and is no longer true may be announced again.
    """
    limits = dict(
        BudgetPeriod.objects.open_at(now)
        .filter(budget=budget)
        .order_by("pk")
        .select_for_update()
        .values_list("pk", "limit")
    )
    # What was refused before does not fit now either, unless there is more room than then.
    refusing = [pk for pk, limit in limits.items() if budget.is_hard and budget.limit <= limit]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE costs_budgetperiod
            SET "limit" = %(limit)s,
                ceiling = CASE WHEN %(hard)s THEN greatest(%(limit)s, spent + reserved) END,
                exhausted_at = CASE WHEN id = ANY(%(refusing)s) OR spent + overage >= %(limit)s THEN exhausted_at END
            WHERE id = ANY(%(ids)s)
            """,
            {"limit": budget.limit, "hard": budget.is_hard, "ids": list(limits), "refusing": refusing},
        )
    return alerting.review(limits, cause=Cause.CHANGED, now=now, refusals_stand=set(refusing))


def _for_people(details: dict[str, Any]) -> dict[str, Any]:
    """Money as decimal USD."""
    if "limit" in details:
        limit = details.pop("limit")
        details["limit_usd"] = [usd_text(n) for n in limit] if isinstance(limit, list) else usd_text(limit)
    return details


def _write_down(kind: str, budget: Budget, *, by: Actor | None, details: dict[str, Any]) -> None:
    if by:
        record(by, "budget:update", budget, tenant_id=budget.tenant_id, details=details)
    swarm_id = uuid.UUID(budget.target) if budget.scope == Scope.SWARM and budget.target else None
    data = {"budget_id": str(budget.pk), "budget": budget.name, **details}
    events.emit([events.NewEvent(kind, budget.tenant_id, swarm_id, data=data)])
