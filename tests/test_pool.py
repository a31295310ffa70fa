"""The resource pool: what is taken comes back, and never more is taken than there is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from apps.swarms.models import ResourcePool, Swarm, SwarmStatus
from apps.swarms.models.pool import PoolExhausted
from apps.swarms.resources import Resources
from apps.tenants.models import Tenant

pytestmark = pytest.mark.django_db


def running(tenant: Tenant, agents: int = 10, **fields: Any) -> Swarm:
    """A running swarm of agents with 2 GB and half a core each, which holds nothing yet."""
    return Swarm.objects.create(
        tenant=tenant,
        name="s",
        spec={},
        status=SwarmStatus.RUNNING,
        agents_asked=agents,
        memory_gb_asked=Decimal(2) * agents,
        cpu_asked=Decimal("0.5") * agents,
        **fields,
    )


def taking(*swarms: Swarm) -> ResourcePool:
    with transaction.atomic():
        pool = ResourcePool.objects.locked()
        pool.take(swarms)
    return pool


def test_utilisation_tells_used_total_and_percent_of_each_resource(acme: Tenant) -> None:  # O2
    taking(running(acme, 50))
    usage = ResourcePool.objects.current().utilisation()
    assert {name: (use.used, use.total, use.percent) for name, use in usage.items()} == {
        "agents": (50, 500, 10.0),
        "memory_gb": (Decimal(100), Decimal(1024), 9.8),
        "cpu": (Decimal(25), Decimal(256), 9.8),
        "swarms": (1, 50, 2.0),
    }


def test_a_pool_of_nothing_is_not_a_division_by_zero() -> None:
    ResourcePool(agents_total=0).full_clean(exclude=["id"], validate_unique=False, validate_constraints=False)
    assert ResourcePool(agents_total=0).utilisation()["agents"].percent == 0.0


def test_what_was_taken_comes_back_once_however_often_it_is_given_back(acme: Tenant) -> None:
    swarm, other = running(acme, 10), running(acme, 5)
    taking(swarm, other)
    assert ResourcePool.objects.give_back([swarm]) == 1
    assert ResourcePool.objects.give_back([swarm]) == 0
    assert not swarm.holds_resources
    pool = ResourcePool.objects.current()
    assert pool.used == Resources(5, Decimal(10), Decimal("2.5"), 1)
    assert Swarm.objects.get(pk=other.pk).holds_resources


def test_giving_back_believes_the_table_and_not_the_copy_in_memory(acme: Tenant) -> None:
    stale = running(acme)
    taking(Swarm.objects.get(pk=stale.pk))
    assert not stale.holds_resources
    assert ResourcePool.objects.give_back([stale]) == 1
    assert ResourcePool.objects.current().agents_used == 0


def test_taking_more_than_is_free_is_refused_with_what_is_missing_and_changes_nothing(acme: Tenant) -> None:
    with pytest.raises(PoolExhausted, match=r"lacks 10 agents\."):
        taking(running(acme, 400), running(acme, 110))
    assert ResourcePool.objects.current().used.agents == 0
    assert not Swarm.objects.filter(holds_resources=True).exists()


def test_the_database_refuses_over_allocation_whoever_asks() -> None:
    with pytest.raises(IntegrityError, match="agents_not_over_allocated"), transaction.atomic():
        ResourcePool.objects.update(agents_used=501)


def test_a_total_below_what_is_in_use_is_refused_by_field(acme: Tenant) -> None:
    taking(running(acme, 100))
    pool = ResourcePool.objects.current()
    pool.agents_total, pool.memory_gb_total, pool.cpu_total = 99, Decimal("199.999"), Decimal(50)
    with pytest.raises(ValidationError) as refused:
        pool.full_clean()
    assert set(refused.value.message_dict) == {"agents_total", "memory_gb_total"}
    assert refused.value.message_dict["agents_total"][0].startswith("100 are in use now")


def test_a_change_of_the_totals_does_not_undo_what_was_taken_meanwhile(acme: Tenant) -> None:
    form = ResourcePool.objects.current()
    taking(running(acme, 7))
    form.agents_total = 600
    form.save()
    pool = ResourcePool.objects.current()
    assert (pool.agents_total, pool.agents_used, pool.swarms_used) == (600, 7, 1)


def test_there_is_only_one_pool() -> None:
    with pytest.raises(IntegrityError, match="one_pool"), transaction.atomic():
        ResourcePool(id=2).save()
