"""One small real call to a region, to see whether it works: asked for by a person, made by a runner, paid by a tenant.

The page that asks holds no key. A runner that may hold the provider's takes the call from the table, on a hint or when
it starts; should it die, the call is lost, and its reservation is charged when its lease ends, like any other.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Q

from apps.audit import trail
from apps.audit.trail import Actor
from apps.costs.prices import ModelPrice, UnknownModel, price_of
from apps.execution.models import RegionTry, Runner, TryStatus
from apps.providers.directory import Endpoint
from apps.providers.models import Provider, Region
from apps.tenants.access import Principal
from apps.tenants.models import Tenant, User
from portal.notify import Channel, notify

log = structlog.get_logger(__name__)

MAX_OUTPUT_TOKENS = 16
TAKEN_WITHIN_S = 8.0
"""A call that no runner has taken by then is not made: whoever asked has been told so."""
CALL_S = 30.0
"""How long the region may take."""
LEASE_S = CALL_S + 10.0
"""How long a runner has to tell what came of it, the reservation of money included."""
HEARTBEAT_FRESH = dt.timedelta(seconds=10)
KEPT = dt.timedelta(days=7)


class CannotTry(Exception):
    """No call will be made; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a call. ``cost`` in nano-dollars: the whole reservation where nobody knows what it cost."""

    status: TryStatus
    text: str
    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that a runner has taken. Without a price it cannot be made, and ``problem`` says why."""

    id: uuid.UUID
    endpoint: Endpoint
    model: str
    tenant_id: uuid.UUID
    expires_at: dt.datetime
    price: ModelPrice | None
    problem: str = ""


# -- the person's side -------------------------------------------------------------------------------------------------


def ask(region: Region, *, model: str, tenant: Tenant, by: Principal, user: User, now: dt.datetime) -> RegionTry:
    """Asks for a call of ``model`` (its name at the provider) in this region and no other, whatever its breaker says.

    The tenant's budgets decide and pay. Raises CannotTry, and nothing is asked for, when it cannot be made, or when the
    person's last try of the region is under way.
    """
    provider = region.provider
    name = f"{provider.name}:{model}"
    try:
        price_of(name, tenant_id=tenant.pk, at=now)
    except UnknownModel as unknown:
        raise CannotTry(str(unknown)) from unknown
    if provider.secret_name and not provider.is_enabled:
        raise CannotTry(f"{provider} is disabled, so no worker holds its key. Enable it first.")
    try:
        with transaction.atomic():
            close_overdue(now=now)
            asked = RegionTry.objects.create(
                region=region,
                tenant=tenant,
                asked_by=user,
                model=model,
                asked_at=now,
                expires_at=now + dt.timedelta(seconds=TAKEN_WITHIN_S),
            )
            details = {"model": name, "try": str(asked.pk)}
            trail.record(by, "region:try", region, tenant_id=tenant.pk, details=details)
            notify(Channel.CONTROL, {"try": str(asked.pk)})
    except IntegrityError as double:
        if "one_try_at_a_time" not in str(double):
            raise
        raise CannotTry("Your last try of this region is still under way: wait until it is over.") from double
    return asked


def last_of(region: Region, user: User, *, now: dt.datetime) -> RegionTry | None:
    """The person's last try of a region, as it stands. One query, and more when nothing will come of it any more."""
    mine = RegionTry.objects.filter(region=region, asked_by=user)
    last = mine.first()
    if last is not None and last.is_under_way and close_overdue(now=now, of=last.pk):
        last.refresh_from_db()
    return last


def close_overdue(*, now: dt.datetime, of: uuid.UUID | None = None) -> int:
    """Ends tries that nothing will come of, and says why; how many. ``of``: only that one."""
    overdue = RegionTry.objects.overdue(now=now)
    if of is not None:
        overdue = overdue.filter(pk=of)
    if not overdue.exists():
        return 0
    closed = 0
    with transaction.atomic():
        rows = overdue.select_for_update(of=("self",), skip_locked=True).select_related("region__provider")
        for row in rows.order_by("pk"):
            if row.status == TryStatus.WAITING:
                row.end(TryStatus.UNANSWERED, _why_nobody(row.region.provider, now=now), now=now)
            else:
                row.end(TryStatus.LOST, LOST, now=now)
            _audit(row)
            closed += 1
    return closed


LOST = (
    "The worker that made the call ended, or fell silent, before it told what came of it. Should the call have been "
    "sent, what was reserved for it is charged when the reservation's lease ends, and marked."
)


def _why_nobody(provider: Provider, *, now: dt.datetime) -> str:
    """Why no runner took a call, and what to start."""
    command = "manage.py work --cluster agents"
    alive = Runner.objects.filter(finished_at=None, draining=False, heartbeat_at__gt=now - HEARTBEAT_FRESH)
    late = f"No worker took the call within {TAKEN_WITHIN_S:g} s, so it was not made."
    if not provider.secret_name:
        if alive.exists():
            return f"{late} Workers are alive: see whether they are overloaded, and try again."
        return f"{late} No worker of the cluster agents is running. Start one: {command}"
    classes = list(provider.worker_classes)
    told = " or ".join(classes)
    if alive.filter(worker_class__in=classes).exists():
        return (
            f"{late} It needs the key {provider.secret_name}, which workers of the class {told} may hold and do not, "
            "or they are overloaded: see Keys of providers."
        )
    return (
        f"{late} It needs the key {provider.secret_name}, which only workers of the class {told} may hold, and none is "
        f"running. Start one: {command} --class {classes[0]}"
    )


# -- the runner's side -------------------------------------------------------------------------------------------------


def take(
    runner_id: uuid.UUID, worker_class: str, limit: int, *, not_of: Collection[str], now: dt.datetime
) -> tuple[list[Taken], bool]:
    """Takes up to ``limit`` calls that this class of runners may make, and whether there are more for it.

    ``not_of`` are providers whose keys it does not hold just now.
    """
    granted = Q(region__provider__secret_name="") | Q(region__provider__worker_classes__contains=[worker_class])
    waiting = RegionTry.objects.filter(granted, status=TryStatus.WAITING, expires_at__gt=now)
    until = now + dt.timedelta(seconds=LEASE_S)
    taken = []
    with transaction.atomic():
        free = waiting.exclude(region__provider__name__in=not_of).order_by("asked_at")
        rows = free.select_for_update(of=("self",), skip_locked=True).select_related("region__provider")[:limit]
        for row in rows:
            row.begin(runner_id, now=now, expires_at=until)
            taken.append(_taken(row, now=now))
        return taken, waiting.exists()


def _taken(row: RegionTry, *, now: dt.datetime) -> Taken:
    region, provider = row.region, row.region.provider
    endpoint = Endpoint(provider.name, provider.kind, region.name, region.base_url, provider.secret_name)
    price, problem = None, ""
    try:
        price = price_of(f"{provider.name}:{row.model}", tenant_id=row.tenant_id, at=now)
    except UnknownModel as unknown:
        problem = str(unknown)
    return Taken(row.pk, endpoint, row.model, row.tenant_id, row.expires_at, price, problem)


def tell(id: uuid.UUID, runner_id: uuid.UUID, found: Found, *, now: dt.datetime) -> bool:
    """Writes down what came of a call; False when it was given up as lost before."""
    with transaction.atomic():
        rows = RegionTry.objects.select_for_update(of=("self",)).select_related("region__provider")
        row = rows.filter(pk=id, runner_id=runner_id, status=TryStatus.RUNNING).first()
        if row is None:
            log.warning("try_told_too_late", id=str(id))
            return False
        row.seconds, row.cost = found.seconds, found.cost
        row.input_tokens, row.output_tokens = found.input_tokens, found.output_tokens
        row.end(found.status, found.text, now=now)
        _audit(row)
    return True


def _audit(row: RegionTry) -> None:
    """What came of a try, on the account of whoever asked for it."""
    details = {
        "model": f"{row.region.provider.name}:{row.model}",
        "try": str(row.pk),
        "outcome": row.status,
        "ms": round(row.seconds * 1000),
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_nano_usd": row.cost,
    }
    trail.record(
        Actor("user", str(row.asked_by_id)),
        "region:tried",
        row.region,
        tenant_id=row.tenant_id,
        success=row.status == TryStatus.WORKS,
        reason=row.text[:500],
        details=details,
    )


def prune(*, now: dt.datetime) -> int:
    """Removes tries that are older than a week; how many. The trail has them all."""
    return RegionTry.objects.filter(asked_at__lt=now - KEPT).delete()[0]
