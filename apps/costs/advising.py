"""Advice on saving money: finders of upper layers tell what could be saved, people act on it or dismiss it.

A daily job, or a person, asks every finder about the last 30 days. What would have been saved in them is the saving of
a month: nothing is extrapolated, and nothing is advised on too little data, see :class:`Thresholds`. Finders and acts
are registered in an app's ``ready()``.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from apps.audit import trail
from apps.costs.models import Advice, AdviceKind, AdviceStatus
from apps.tenants.access import AccessDenied, Principal
from apps.tenants.roles import Permission
from portal.money import NANO, usd_text


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How much must be known before anything is advised, and how much it must save."""

    window: dt.timedelta = dt.timedelta(days=30)
    least_saving: int = NANO
    """Nano-dollars a month; less is not worth anybody's time."""
    least_days: int = 3
    """Days from the first to the last row that it rests on."""
    least_calls: int = 200
    """Of one agent to one model, before its work is called simple."""
    short_input: int = 2_000
    short_output: int = 200
    """Tokens that nine of ten calls stay below, for work to be simple."""
    least_swarms: int = 5
    """That an agent took part in, before it is called idle."""
    least_repeats: int = 20
    """Calls that had been made before with the same prompt."""
    least_pool_days: int = 14
    spare: float = 1.25
    """What a pool should have, as a multiple of the most that was in use."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a finder found; see :class:`apps.costs.models.Advice` for the fields. ``tenant_id`` None: the platform."""

    tenant_id: uuid.UUID | None
    kind: AdviceKind
    key: str
    text: str
    saving: int
    first: dt.datetime
    last: dt.datetime
    entries: int
    query: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sample_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """How a kind of advice is acted on. ``do(advice, by)`` runs in a transaction with the decision and its audit entry.

    ``label`` is what the button says; ``effect`` says what will happen. ``permission`` None: platform admins only.
    """

    label: str
    effect: Callable[[Advice], str]
    do: Callable[[Advice, Principal], None]
    permission: Permission | None = Permission.COST_UPDATE


class CannotDecide(Exception):
    """Advice cannot be acted on or dismissed; the text says why, for a person."""


Finder = Callable[[dt.datetime, Thresholds], Iterable[Finding]]
_finders: dict[AdviceKind, Finder] = {}
_acts: dict[AdviceKind, Act] = {}


def register_finder(kind: AdviceKind, find: Finder, act: Act | None = None) -> None:
    """Adds a finder, called as ``find(now, thresholds)``, and how its advice is acted on, if it can be here."""
    _finders[kind] = find
    if act:
        _acts[kind] = act


def act_of(advice: Advice) -> Act | None:
    """How the advice is acted on with one click; None where the portal cannot do it."""
    return _acts.get(AdviceKind(advice.kind))


def refresh(*, now: dt.datetime, thresholds: Thresholds = THRESHOLDS) -> int:
    """Asks all finders, and keeps what they say; how many pieces of advice are open.

    Open advice that is not found any more goes. What people decided stays, except as ``Advice.comes_back`` says.
    """
    for kind, find in _finders.items():
        findings = [found for found in find(now, thresholds) if _is_enough(found, thresholds)]
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext('advice'))")  # one refresh at a time
            _keep(kind, findings, now=now, thresholds=thresholds)
    return Advice.objects.open().count()


def _is_enough(found: Finding, thresholds: Thresholds) -> bool:
    days = found.last - found.first >= dt.timedelta(days=thresholds.least_days)
    return found.saving >= thresholds.least_saving and days and found.entries > 0


def _keep(kind: AdviceKind, findings: Sequence[Finding], *, now: dt.datetime, thresholds: Thresholds) -> None:
    known = {(each.tenant_id, each.key): each for each in Advice.objects.filter(kind=kind).select_for_update()}
    new: list[Advice] = []
    changed: list[Advice] = []
    for found in findings:
        advice = known.pop((found.tenant_id, found.key), None)
        if advice is None:
            advice = Advice(tenant_id=found.tenant_id, kind=kind, key=found.key, found_at=now)
            new.append(advice)
        elif advice.status == AdviceStatus.OPEN or advice.comes_back(found.saving, now=now, after=thresholds.window):
            changed.append(advice)
        else:
            continue
        advice.status, advice.decided_at, advice.reason, advice.dismissed_saving = AdviceStatus.OPEN, None, "", None
        advice.text, advice.facts, advice.saving = found.text[:500], dict(found.facts), found.saving
        advice.window_start, advice.window_end = now - thresholds.window, now
        advice.query, advice.entries, advice.sample_ids = dict(found.query), found.entries, list(found.sample_ids)
    Advice.objects.bulk_create(new)
    Advice.objects.bulk_update(changed, _FOUND)
    gone = [advice.pk for advice in known.values() if advice.status == AdviceStatus.OPEN]
    Advice.objects.filter(pk__in=gone).delete()


_FOUND = [
    "status", "decided_at", "reason", "dismissed_saving", "text", "facts", "saving", "window_start", "window_end",
    "query", "entries", "sample_ids",
]  # fmt: skip


def act_on(advice: Advice, *, by: Principal, now: dt.datetime) -> Advice:
    """Does what the advice says. Raises AccessDenied; CannotDecide when it is decided already or cannot be done."""
    with transaction.atomic():
        advice = _locked(advice)
        act = act_of(advice)
        if act is None:
            raise CannotDecide("The portal cannot do this by itself: the advice says how.")
        _verify(by, advice, act.permission)
        act.do(advice, by)
        return _decide(advice, AdviceStatus.ACTED, by=by, now=now)


def dismiss(advice: Advice, *, reason: str, by: Principal, now: dt.datetime) -> Advice:
    """Says no, and why. It stays dismissed until the saving has doubled. Raises AccessDenied, CannotDecide."""
    with transaction.atomic():
        advice = _locked(advice)
        _verify(by, advice, Permission.COST_UPDATE)
        if not reason.strip():
            raise CannotDecide("Say why, so that others need not ask.")
        advice.reason, advice.dismissed_saving = reason.strip()[:500], advice.saving
        return _decide(advice, AdviceStatus.DISMISSED, by=by, now=now)


def _locked(advice: Advice) -> Advice:
    found = Advice.objects.select_for_update().filter(pk=advice.pk).first()
    if found is None:
        raise CannotDecide("It is not advised any more.")
    if found.status != AdviceStatus.OPEN:
        raise CannotDecide(f"Somebody has decided already: it was {found.get_status_display().lower()}.")
    return found


def _verify(by: Principal, advice: Advice, permission: Permission | None) -> None:
    if permission is None or advice.tenant_id is None:
        if not by.everything:
            raise AccessDenied("This belongs to the platform: only a platform admin may do it.")
    else:
        by.verify(permission, advice.tenant_id)


def _decide(advice: Advice, status: AdviceStatus, *, by: Principal, now: dt.datetime) -> Advice:
    advice.status, advice.decided_at = status, now
    advice.save()
    trail.record(
        by,
        Permission.COST_UPDATE,
        advice,
        tenant_id=advice.tenant_id,
        reason=advice.reason,
        details={
            "advice": status.value,
            "kind": advice.kind,
            "key": advice.key,
            "saving_usd": usd_text(advice.saving),
            **{name: value for name, value in advice.facts.items() if isinstance(value, str | int)},
        },
    )
    return advice
