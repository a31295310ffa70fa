"""Making, changing and removing cost centres with their rules: each act with its audit entry and event."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from apps.audit import trail
from apps.costs.models import CentreRule, CostCentre
from apps.events import log as events
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

MOST_RULES = 200
"""Of a tenant. Each is a condition of the query that adds up a month."""
PATTERNS = ("agent", "model", "run")


def create_centre(
    *, tenant: Tenant, code: str, name: str, by: Principal, rules: Sequence[CentreRule] = ()
) -> CostCentre:
    """Makes a cost centre with its rules, which hold for every month that is not closed.

    ``rules`` are rows that are not saved yet. Raises AccessDenied, or ValidationError with what is wrong.
    """
    by.verify(Permission.COST_UPDATE, tenant.pk)
    with transaction.atomic():
        _take_turns(tenant.pk)
        centre = CostCentre(tenant=tenant, code=code.strip(), name=name.strip())
        centre.full_clean()
        centre.save(force_insert=True)
        added = _put(centre, rules)
        details = {"code": centre.code, "name": centre.name, **({"rules_added": added} if added else {})}
        _write_down("create", centre, by=by, details=details)
    return centre


def change_centre(
    centre: CostCentre,
    *,
    by: Principal,
    code: str | None = None,
    name: str | None = None,
    put: Sequence[CentreRule] = (),
    drop: Iterable[int] = (),
) -> CostCentre:
    """Changes what is given of a cost centre, adds or replaces the rules ``put``, removes those with the ids ``drop``.

    Closed months keep the terms that they were closed with. Raises AccessDenied, or ValidationError with what is wrong.
    """
    by.verify(Permission.COST_UPDATE, centre.tenant_id)
    with transaction.atomic():
        locked = _locked(centre)
        details: dict[str, Any] = {}
        for field, value in (("code", code), ("name", name)):
            before = getattr(locked, field)
            if value is not None and value.strip() != before:
                setattr(locked, field, value.strip())
                details[field] = [before, value.strip()]
        if details:
            locked.full_clean()
            locked.save(update_fields=list(details))
        rules = CentreRule.objects.filter(centre=locked).in_bulk()
        if gone := [rules[pk] for pk in drop if pk in rules]:
            details["rules_removed"] = [told(rule) for rule in gone]
            CentreRule.objects.filter(pk__in=[rule.pk for rule in gone]).delete()
        dropped = {rule.pk for rule in gone}
        fresh = [rule for rule in put if rule.pk is None]
        known = [rule for rule in put if rule.pk is not None and rule.pk not in dropped]
        if any(rule.pk not in rules for rule in known):
            raise ValidationError("A rule that you changed was removed meanwhile. Look at the rules again.")
        if added := _put(locked, fresh):
            details["rules_added"] = added
        before_after = zip([told(rules[rule.pk]) for rule in known], _put(locked, known), strict=True)
        if changed := [[before, after] for before, after in before_after if before != after]:
            details["rules_changed"] = changed
        if details:
            _write_down("change", locked, by=by, details={"code": locked.code, **details})
    return locked


def delete_centre(centre: CostCentre, *, by: Principal, reason: str) -> None:
    """Removes a cost centre and its rules; closed months keep them. Raises AccessDenied, or ValidationError."""
    by.verify(Permission.COST_UPDATE, centre.tenant_id)
    reason = " ".join(reason.split())
    if not reason:
        raise ValidationError("Say why: whoever misses the cost centre will ask.")
    with transaction.atomic():
        locked = _locked(centre)
        rules = [told(rule) for rule in locked.rules.order_by("position", "pk")]
        details = {"code": locked.code, "name": locked.name, **({"rules_removed": rules} if rules else {})}
        _write_down("delete", locked, by=by, details=details, reason=reason)
        locked.delete()


def told(rule: CentreRule) -> str:
    """A rule as the trail keeps it."""
    return f"{rule.position}: {rule}"


def _take_turns(tenant_id: uuid.UUID) -> None:
    """Whoever changes the cost centres of a tenant takes turns here, and with who closes its month."""
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)


def _locked(centre: CostCentre) -> CostCentre:
    _take_turns(centre.tenant_id)
    found = CostCentre.objects.filter(pk=centre.pk).first()
    if found is None:
        raise ValidationError(f"The cost centre {centre.code} was removed meanwhile.")
    return found


def _put(centre: CostCentre, rules: Sequence[CentreRule]) -> list[str]:
    """Saves rules of a centre; each as the trail keeps it."""
    for rule in rules:
        rule.centre = centre
        for name in PATTERNS:
            setattr(rule, name, getattr(rule, name).strip())
        rule.full_clean()
        rule.save()
    if rules and CentreRule.objects.filter(centre__tenant_id=centre.tenant_id).count() > MOST_RULES:
        raise ValidationError(f"A tenant has at most {MOST_RULES} rules. Patterns such as research-* take many names.")
    return [told(rule) for rule in rules]


def _write_down(act: str, centre: CostCentre, *, by: Principal, details: dict[str, Any], reason: str = "") -> None:
    trail.record(
        by,
        Permission.COST_UPDATE,
        centre,
        tenant_id=centre.tenant_id,
        reason=reason,
        details={"act": act, **details},
    )
    data = {"cost_centre_id": centre.pk, **details}
    events.emit([events.NewEvent(f"cost_centre.{act}d", centre.tenant_id, data=data)])
