"""Leases beside what else is written at the same moment, and what their commits wait for."""

from __future__ import annotations

import uuid

from django.db import connection, transaction

from apps.costs.models import Reservation
from apps.costs.settling import Settlement, apply, take
from apps.execution import leases
from apps.tenants.models import Tenant
from tests.costs import LATER, NOW, ask, budget, period
from tests.swarms import StepOf, make_swarm
from tests.test_reserving_races import Aside


def lease_one() -> leases.Leased:
    (leased,) = leases.lease(uuid.uuid4(), 1, now=NOW, expires_at=LATER)
    return leased


def durability() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        (value,) = cursor.fetchone() or ("",)
    return str(value)


def test_a_renewal_waits_for_no_call_that_is_just_being_settled(own_database: str, acme: Tenant) -> None:
    # The writer holds the reservation and comes for the task next; a renewal holds the task.
    month = budget(acme, 100)
    make_swarm(acme, [StepOf("only")])
    leased = lease_one()
    settled, flying = ask(acme, 60, 10, attempt_id=leased.token)
    with transaction.atomic():
        moves, _ = take([Settlement(settled.id, 45)])
        aside = Aside(lambda: leases.renew([leased.token], expires_at=LATER))
        assert aside.outcome() == {leased.token}
        apply(moves, now=NOW)
    assert list(Reservation.objects.values_list("id", "expires_at")) == [(flying.id, LATER)]
    assert (period(month).spent, period(month).reserved) == (45, 10)


def test_only_the_commit_of_a_lease_does_not_wait_for_the_disk(own_database: str, acme: Tenant) -> None:
    make_swarm(acme, [StepOf("only", items=2)])
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO on")
    with transaction.atomic():
        lease_one()
        assert durability() == "off"
    assert durability() == "on"
    lease_one()
    assert durability() == "on"
