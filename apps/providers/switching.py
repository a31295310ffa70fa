"""Changes to a region that all workers share: its breaker, its pace, its draining.

Each is one transaction under the lock of the region's breaker: the change, its event, the provider's health, and a hint
to every runner. The rules are in :mod:`apps.providers.breaker`.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence

import structlog
from django.db import transaction
from django.utils import timezone

from apps.audit import trail
from apps.events.log import NewEvent, emit
from apps.providers import health
from apps.providers.breaker import BreakerPolicy, Circuit, Failure, State
from apps.providers.models import Breaker, Region
from portal.notify import Channel, notify

log = structlog.get_logger(__name__)

LONGEST_SLOWDOWN = dt.timedelta(minutes=10)
"""However long a region asks to be left alone, it is asked again after this."""

_KINDS = {State.OPEN: "breaker.opened", State.HALF_OPEN: "breaker.half_opened", State.CLOSED: "breaker.closed"}


class CannotSwitch(Exception):
    """The region is in that state already; the text is for a person."""


# -- what calls and probes find out ------------------------------------------------------------------------------------


def report_failures(region_id: uuid.UUID, failures: Sequence[Failure], *, error: str, now: dt.datetime) -> State:
    """Counts failed calls of one process; the state after them. ``error`` is what the last of them met with."""

    def decide(circuit: Circuit, policy: BreakerPolicy) -> Circuit:
        return circuit.failed(failures, policy, now=now)

    def cause(circuit: Circuit, policy: BreakerPolicy) -> str:
        return f"{policy.failures} calls failed within {policy.window_s:g} s; the last: {error}"

    return _change(region_id, decide, cause, now=now, error=error)


def claim_probe(region_id: uuid.UUID, token: uuid.UUID, *, lease_s: float, now: dt.datetime) -> bool:
    """Whether the caller is the one that may try the region now, for ``lease_s`` seconds."""
    won = False

    def decide(circuit: Circuit, policy: BreakerPolicy) -> Circuit:
        nonlocal won
        after = circuit.claimed(token, now=now, lease_s=lease_s)
        won = after is not circuit
        return after

    _change(region_id, decide, lambda *_: "Whoever tried it went silent.", now=now)
    return won


def probe_answered(region_id: uuid.UUID, token: uuid.UUID, *, lease_s: float, now: dt.datetime) -> bool:
    """The region answers again; whether the caller may send it a call, within ``lease_s`` seconds."""
    state = _change(
        region_id,
        lambda circuit, _: circuit.answered(token, now=now, lease_s=lease_s),
        lambda *_: "It answers again; the next call decides.",
        now=now,
    )
    return state is State.HALF_OPEN


def probe_passed(region_id: uuid.UUID, token: uuid.UUID, *, cause: str, now: dt.datetime) -> State:
    return _change(region_id, lambda circuit, _: circuit.passed(token), lambda *_: cause, now=now)


def probe_refused(region_id: uuid.UUID, token: uuid.UUID, *, error: str, now: dt.datetime) -> State:
    """The probe failed: the region stays or becomes open until the next one."""
    return _change(
        region_id,
        lambda circuit, policy: circuit.refused(token, policy, now=now),
        lambda *_: f"The call that tried it failed: {error}",
        now=now,
        error=error,
    )


def proved(region_id: uuid.UUID, *, now: dt.datetime) -> State:
    """A call that had nowhere else to go succeeded there."""
    return _change(
        region_id, lambda circuit, _: circuit.proved(), lambda *_: "A call that had no other region succeeded.", now=now
    )


def slow_down(region_id: uuid.UUID, *, seconds: float, now: dt.datetime) -> dt.datetime | None:
    """The region asked for fewer calls: none is sent there until then, by anybody. None: the region is gone."""
    until = now + min(dt.timedelta(seconds=seconds), LONGEST_SLOWDOWN)
    with transaction.atomic():
        breaker = _locked(region_id)
        if breaker is None or (breaker.slowed_until and breaker.slowed_until >= until):
            return breaker.slowed_until if breaker else None
        is_news = breaker.slowed_until is None or breaker.slowed_until <= now
        breaker.slowed_until = until
        breaker.save(update_fields=["slowed_until"])
        if is_news:
            emit([_event("region.slowed", breaker.region, {"seconds": round(seconds, 3)})], now=now)
        _tell(breaker.region)
    return until


def claim_check(region_id: uuid.UUID, *, every_s: float, now: dt.datetime) -> bool:
    """Whether the caller is the one that asks an idle region now whether it answers."""
    Breaker.objects.bulk_create([Breaker(region_id=region_id)], ignore_conflicts=True)
    due = Breaker.objects.filter(pk=region_id, state=State.CLOSED).exclude(
        checked_at__gt=now - dt.timedelta(seconds=every_s)
    )
    return due.update(checked_at=now) == 1


# -- what people do ----------------------------------------------------------------------------------------------------


def open_by_hand(region: Region, *, by: trail.Actor, reason: str, now: dt.datetime | None = None) -> None:
    """Sends no call there until a person closes it. Raises CannotSwitch when a person has opened it already."""
    _by_hand(region, lambda circuit: circuit.opened_by_hand(), "open", by, reason, now or timezone.now())


def close_by_hand(region: Region, *, by: trail.Actor, reason: str, now: dt.datetime | None = None) -> None:
    """Sends calls there again at once. Raises CannotSwitch when it is closed."""
    _by_hand(region, lambda circuit: circuit.closed_by_hand(), "close", by, reason, now or timezone.now())


def drain(region: Region, *, by: trail.Actor, reason: str, now: dt.datetime | None = None) -> None:
    """Gives a region no new calls; those under way go on. Raises CannotSwitch when it is being drained."""
    _set_draining(region, True, by=by, reason=reason, now=now or timezone.now())


def undrain(region: Region, *, by: trail.Actor, reason: str, now: dt.datetime | None = None) -> None:
    """Gives a region calls again. Raises CannotSwitch when it is not being drained."""
    _set_draining(region, False, by=by, reason=reason, now=now or timezone.now())


def _by_hand(
    region: Region, decide: Callable[[Circuit], Circuit], verb: str, by: trail.Actor, reason: str, now: dt.datetime
) -> None:
    with transaction.atomic():
        moved = False

        def decided(circuit: Circuit, policy: BreakerPolicy) -> Circuit:
            nonlocal moved
            after = decide(circuit)
            moved = after is not circuit
            return after

        done = "opened" if verb == "open" else "closed"
        _change(region.pk, decided, lambda *_: f"{done.capitalize()} by hand: {reason}", now=now)
        if not moved:
            raise CannotSwitch(f"The breaker of {region} is {done}{' by hand' if verb == 'open' else ''} already.")
        trail.record(by, f"breaker:{verb}", region, tenant_id=None, reason=reason)


def _set_draining(region: Region, wanted: bool, *, by: trail.Actor, reason: str, now: dt.datetime) -> None:
    with transaction.atomic():
        if not Region.objects.filter(pk=region.pk, is_draining=not wanted).update(is_draining=wanted):
            raise CannotSwitch(f"{region} is {'' if wanted else 'not '}being drained{' already' if wanted else ''}.")
        region.is_draining = wanted
        kind = "region.drained" if wanted else "region.undrained"
        emit([_event(kind, region, {"reason": reason})], now=now)
        trail.record(by, f"region:{'drain' if wanted else 'undrain'}", region, tenant_id=None, reason=reason)
        health.review(region.provider_id, now=now)
        _tell(region)


# -- how -------------------------------------------------------------------------------------------------------------


def _change(
    region_id: uuid.UUID,
    decide: Callable[[Circuit, BreakerPolicy], Circuit],
    cause: Callable[[Circuit, BreakerPolicy], str],
    *,
    now: dt.datetime,
    error: str = "",
) -> State:
    """Lets ``decide`` change the region's circuit; the state after it. A region that is gone counts as open.

    ``error`` is what a call or a probe met with, where that is what changes it.
    """
    with transaction.atomic():
        breaker = _locked(region_id)
        if breaker is None:
            return State.OPEN
        before, policy = breaker.circuit, breaker.region.provider.breaker_policy
        after = decide(before, policy)
        if after is before:
            return before.state
        if error:
            breaker.failed_at, breaker.last_error = now, error[:300]
        why = cause(after, policy)
        if breaker.move(after, cause=why, now=now):
            data = {"before": before.state.value, "cause": why[:500], "failures": len(before.failures)}
            emit([_event(_KINDS[after.state], breaker.region, data)], now=now)
            health.review(breaker.region.provider_id, now=now)
            _tell(breaker.region)
            log.warning("breaker_changed", region=str(breaker.region), state=after.state.value, cause=why[:500])
        elif after.probe is None and before.probe is not None:
            _tell(breaker.region)
    return after.state


def _locked(region_id: uuid.UUID) -> Breaker | None:
    """The region's breaker under lock, made when it has none yet; None when the region is gone."""
    if not Region.objects.filter(pk=region_id).exists():
        return None
    Breaker.objects.bulk_create([Breaker(region_id=region_id)], ignore_conflicts=True)
    rows = Breaker.objects.select_for_update(of=("self",)).select_related("region__provider")
    return rows.filter(pk=region_id).first()


def _event(kind: str, region: Region, data: Mapping[str, object]) -> NewEvent:
    return NewEvent(kind, data={"provider": region.provider.name, "region": region.name, **data})


def _tell(region: Region) -> None:
    notify(Channel.REGIONS, {"provider": region.provider.name})
