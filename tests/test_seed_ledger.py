"""A made-up history: as many entries as asked for, of tenants of unequal size, priced right, and rolled up."""

from __future__ import annotations

import datetime as dt
import io
from collections import Counter
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Count
from django.utils import timezone

from apps.costs import consistency, rollups, seeding
from apps.costs.entries import NewEntry, write
from apps.costs.models import DayTotal, Kind, LedgerEntry
from apps.costs.prices import MTOK
from apps.tenants.models import Tenant


def seed(**options: Any) -> str:
    out = io.StringIO()
    call_command("seed_ledger", **{"rows": 4000, "tenants": 6, "days": 45, **options}, stdout=out)
    return out.getvalue()


def test_the_history_is_whole_and_looks_like_one(own_database: str) -> None:
    told = seed()
    assert "4,000 of 4,000 entries rolled up" in told
    assert LedgerEntry.objects.count() == 4000
    assert rollups.position() == LedgerEntry.objects.latest("id").pk
    assert consistency.rollups_differ_from_ledger() == []
    assert consistency.charges_without_task() == []
    sizes = dict(Tenant.objects.values_list("slug", "pk"))
    by_tenant = Counter(LedgerEntry.objects.values_list("tenant_id", flat=True))
    assert by_tenant[sizes["seeded-0001"]] > 2 * by_tenant[sizes["seeded-0006"]] > 0
    days = [row["day"] for row in DayTotal.objects.values("day").distinct()]
    assert len(days) >= 45
    assert max(LedgerEntry.objects.values_list("at", flat=True)) < timezone.now() + dt.timedelta(minutes=2)
    kinds = Counter(LedgerEntry.objects.values_list("kind", flat=True))
    assert set(kinds) == set(Kind.values)
    assert kinds["adjustment"] == 4
    for correction in LedgerEntry.objects.filter(kind=Kind.ADJUSTMENT):
        corrected = LedgerEntry.objects.get(pk=correction.corrects or 0)
        assert corrected.unsettled
        assert corrected.reservation_id == correction.reservation_id
        assert 0 < corrected.amount + correction.amount < corrected.amount
    per_swarm = LedgerEntry.objects.exclude(swarm_id=None).values("swarm_id").annotate(n=Count("pk"))
    assert 15 < sum(row["n"] for row in per_swarm) / len(per_swarm) < 50
    weekdays = Counter(at.weekday() for at in LedgerEntry.objects.values_list("at", flat=True))
    assert weekdays[5] + weekdays[6] < weekdays[1] + weekdays[2]


def test_every_call_costs_what_its_rates_say(own_database: str) -> None:
    seed(rows=1000, tenants=2, days=3)
    for row in LedgerEntry.objects.filter(kind=Kind.LLM):
        assert row.input_per_mtok is not None
        assert row.output_per_mtok is not None
        assert row.cache_read_per_mtok is not None
        owed = (row.input_tokens - row.cache_read_tokens) * row.input_per_mtok
        owed += row.cache_read_tokens * row.cache_read_per_mtok + row.output_tokens * row.output_per_mtok
        assert row.amount == -(-owed // MTOK)
    for row in LedgerEntry.objects.filter(kind__in=[Kind.INFRASTRUCTURE, Kind.STORAGE]):
        assert row.quantity is not None
        assert row.unit_price is not None
        assert 0 <= row.amount - row.quantity * row.unit_price < 1


def test_a_ledger_in_use_is_left_alone_unless_told(own_database: str, acme: Tenant) -> None:
    write([NewEntry(tenant_id=acme.pk, kind=Kind.LLM, amount=10)], now=timezone.now())
    with pytest.raises(CommandError, match="can never be deleted"):
        seed()
    assert LedgerEntry.objects.count() == 1
    assert Tenant.objects.count() == 1
    seed(rows=300, tenants=2, days=2, beside_others=True)
    assert LedgerEntry.objects.filter(tenant_id=acme.pk).count() == 1
    seed(rows=300, tenants=2, days=2, seed=2, beside_others=True)
    assert LedgerEntry.objects.count() == 601
    assert consistency.rollups_differ_from_ledger() == []


def test_entries_in_the_default_partition_are_a_clear_refusal(own_database: str, acme: Tenant) -> None:
    long_ago = timezone.now() - dt.timedelta(days=400)
    write([NewEntry(tenant_id=acme.pk, kind=Kind.LLM, amount=10, at=long_ago)], now=timezone.now())
    with pytest.raises(CommandError, match="default partition"):
        seed(days=420, beside_others=True)


@pytest.mark.parametrize("option", [{"rows": 0}, {"rows": 10**9}, {"tenants": 0}, {"days": 4000}])
def test_impossible_numbers_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(CommandError, match=rf"--{next(iter(option))} is a number from 1 to"):
        seed(**option)


def test_one_row_is_a_history_as_well(own_database: str) -> None:
    plan = seeding.Plan(1, 1, 1, dt.date(2026, 3, 1))
    seeding.seed(plan, progress=lambda what, done, of: None, now=timezone.now())
    assert LedgerEntry.objects.get().at.date() == dt.date(2026, 3, 1)
