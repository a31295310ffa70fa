"""What a past period would have cost under other choices; with nothing changed, exactly what the ledger says."""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections import defaultdict
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from apps.costs import whatif
from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind, LedgerEntry, Price
from apps.costs.prices import price_of
from apps.costs.whatif import BadScenario, Cap, Replacement, Scenario, simulate
from apps.tenants.models import Tenant
from portal.money import NANO

pytestmark = pytest.mark.django_db

FIRST = dt.date(2026, 10, 1)
LAST = dt.date(2026, 10, 31)
NOON = dt.datetime(2026, 10, 10, 16, tzinfo=dt.UTC)  # noon in New York
SMALL, LARGE, PUBLISHED = "simulated:small", "simulated:large", "openai:gpt-4o"


@pytest.fixture
def prices(db: None) -> None:
    for model, into, out in ((SMALL, 1, 4), (LARGE, 10, 40)):
        provider, _, name = model.partition(":")
        Price.objects.create(
            provider=provider,
            model=name,
            input_per_mtok=into * NANO,
            output_per_mtok=out * NANO,
            effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        )


def call(tenant: Tenant, amount: int, **fields: Any) -> NewEntry:
    """A call of a thousand tokens in and ten out."""
    given = {
        "kind": Kind.LLM,
        "at": NOON,
        "model": LARGE,
        "agent": "writer",
        "input_tokens": 1000,
        "output_tokens": 10,
        "reservation_id": uuid.uuid4(),
        **fields,
    }
    return NewEntry(tenant_id=tenant.pk, amount=amount, **given)


def scenario(tenant: Tenant, *replacements: Replacement, cap: Cap | None = None, **fields: Any) -> Scenario:
    return Scenario(tenant, **{"first": FIRST, "last": LAST, **fields}, replacements=replacements, cap=cap)


def ledger(rng: random.Random, tenant: Tenant, other: Tenant, count: int) -> None:
    """Entries of every kind, on the edges of October too, charged late and corrected, by hand as well."""
    entries: list[NewEntry] = []
    for _ in range(count):
        at = dt.datetime(2026, 9, 29, tzinfo=dt.UTC) + dt.timedelta(seconds=rng.randint(0, 35 * 86_400))
        whose = rng.choice([tenant, tenant, tenant, other])
        read, write_ = rng.randint(0, 300), rng.randint(0, 300)
        entry = call(
            whose,
            rng.randint(0, 10**9),
            at=at,
            model=rng.choice([SMALL, LARGE, PUBLISHED]),
            agent=rng.choice(["writer", "reader", ""]),
            input_tokens=rng.randint(600, 5000),
            cache_read_tokens=read,
            cache_write_tokens=write_,
        )
        match rng.randint(0, 9):
            case 0:
                entry = NewEntry(tenant_id=whose.pk, kind=Kind.INFRASTRUCTURE, amount=rng.randint(0, 10**9), at=at)
            case 1:
                entry = NewEntry(tenant_id=whose.pk, kind=Kind.ADJUSTMENT, amount=-rng.randint(0, 10**9), at=at)
            case 2:
                late = call(
                    whose,
                    -5,
                    at=at + dt.timedelta(minutes=1),
                    kind=Kind.ADJUSTMENT,
                    reservation_id=entry.reservation_id,
                )
                entries.append(late)
                entry = call(
                    whose, 10**9, at=at, input_tokens=0, output_tokens=0, unsettled=True,
                    reservation_id=entry.reservation_id,
                )  # fmt: skip
        entries.append(entry)
    write(entries, now=NOON)


def in_sql(tenant: Tenant, key: str) -> dict[Any, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {key}, sum(amount)::bigint FROM costs_ledgerentry WHERE tenant_id = %s AND "
            "(at AT TIME ZONE 'America/New_York')::date BETWEEN %s AND %s GROUP BY 1",
            [tenant.pk, FIRST, LAST],
        )
        return dict(cursor.fetchall())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "replacements",
    [(), (Replacement(LARGE, LARGE), Replacement(SMALL, SMALL, "writer"), Replacement(PUBLISHED, PUBLISHED))],
    ids=["nothing", "models by themselves"],
)
def test_with_nothing_changed_it_is_the_ledger(
    acme: Tenant, rival: Tenant, prices: None, seed: int, replacements: tuple[Replacement, ...]
) -> None:
    ledger(random.Random(seed), acme, rival, 300)
    for cap in (None, Cap(10**15)):
        outcome = simulate(scenario(acme, *replacements, cap=cap))
        days = in_sql(acme, "(at AT TIME ZONE 'America/New_York')::date::text")
        assert {line.name: (line.actual, line.hypothetical) for line in outcome.by_day()} == {
            day: (amount, amount) for day, amount in days.items()
        }
        assert {line.name: line.hypothetical for line in outcome.by_agent()} == in_sql(acme, "agent")
        models = {line.name: line.hypothetical for line in outcome.by_model()}
        for model in (SMALL, LARGE, PUBLISHED):
            assert models[model] == in_sql(acme, "model")[model]
        assert outcome.total.difference == 0
        assert (outcome.repriced, outcome.not_repriced, outcome.refusals) == (0, {}, [])


@pytest.mark.parametrize("seed", range(4))
def test_calls_of_a_replaced_model_cost_what_the_price_book_says(
    acme: Tenant, rival: Tenant, prices: None, seed: int
) -> None:
    ledger(random.Random(seed), acme, rival, 200)
    outcome = simulate(scenario(acme, Replacement(SMALL, PUBLISHED), Replacement(LARGE, SMALL, "reader")))
    expected: dict[str, int] = defaultdict(int)
    zone = acme.zone
    repriced = 0
    for entry in LedgerEntry.objects.filter(tenant_id=acme.pk):
        if not FIRST <= entry.at.astimezone(zone).date() <= LAST:
            continue
        new = {(SMALL, entry.agent): PUBLISHED, (LARGE, "reader"): SMALL}.get((entry.model, entry.agent))
        if not new or entry.kind != Kind.LLM:
            expected[entry.agent] += entry.amount
            continue
        repriced += 1
        expected[entry.agent] += price_of(new, tenant_id=acme.pk, at=entry.at).cost(
            entry.input_tokens,
            entry.output_tokens,
            cache_read_tokens=entry.cache_read_tokens,
            cache_write_tokens=entry.cache_write_tokens,
        )
    assert outcome.repriced == repriced > 10
    assert {line.name: line.hypothetical for line in outcome.by_agent()} == expected
    models = {line.name: line for line in outcome.by_model()}
    assert models[SMALL].hypothetical == sum(c.hypothetical for c in outcome.cells if c.priced_as == SMALL)
    assert not [cell for cell in outcome.cells if cell.model == SMALL and cell.priced_as != PUBLISHED]


def test_prices_are_those_of_the_time_of_each_call_the_tenants_own_first(acme: Tenant, prices: None) -> None:
    halved = {"provider": "simulated", "model": "small", "input_per_mtok": NANO // 2, "output_per_mtok": 0}
    Price.objects.create(**halved, effective_from=NOON)
    Price.objects.create(**{**halved, "input_per_mtok": 3 * NANO}, tenant=acme, effective_from=NOON + dt.timedelta(1))
    write(
        [
            call(acme, 7, at=NOON - dt.timedelta(microseconds=1)),
            call(acme, 7, at=NOON),
            call(acme, 7, at=NOON + dt.timedelta(days=1)),
        ],
        now=NOON,
    )
    outcome = simulate(scenario(acme, Replacement(LARGE, SMALL)))
    assert [line.hypothetical for line in outcome.by_day()] == [1_040_000 + 500_000, 3_000_000]
    assert outcome.total.actual == 21
    assert outcome.total.percent == 100 * (4_540_000 - 21) / 21


def test_what_cannot_be_priced_keeps_its_amount_and_says_why(acme: Tenant, prices: None) -> None:
    Price.objects.create(provider="local", model="new", input_per_mtok=0, output_per_mtok=0, effective_from=NOON)
    write(
        [
            call(acme, 100, input_tokens=0, output_tokens=0),
            call(acme, 30, at=NOON - dt.timedelta(hours=1)),
            call(acme, 8),
        ],
        now=NOON,
    )
    outcome = simulate(scenario(acme, Replacement(LARGE, "local:new")))
    assert outcome.not_repriced == {whatif.NO_TOKENS: (1, 100), whatif.NO_PRICE: (1, 30)}
    assert (outcome.repriced, outcome.total.hypothetical) == (1, 130)


def test_a_charge_that_was_corrected_costs_its_tokens_once(acme: Tenant, prices: None) -> None:
    within, before = uuid.uuid4(), uuid.uuid4()
    unknown: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0, "unsettled": True}
    write(
        [
            call(acme, 50_000_000, reservation_id=within, **unknown),
            call(acme, -39_600_000, reservation_id=within, kind=Kind.ADJUSTMENT),
            call(acme, 50_000_000, reservation_id=before, at=NOON - dt.timedelta(days=20), **unknown),
            call(acme, -39_600_000, reservation_id=before, kind=Kind.ADJUSTMENT),
        ],
        now=NOON,
    )
    outcome = simulate(scenario(acme, Replacement(LARGE, SMALL)))
    assert outcome.not_repriced == {}
    # 1,040,000 for a call's tokens at the small model; of the second one, the charge lies in September.
    assert outcome.total.hypothetical == 1_040_000 + (1_040_000 - 50_000_000)
    assert {line.name: line.hypothetical for line in outcome.by_model()}[LARGE] == 0


def test_a_daily_cap_refuses_what_does_not_fit_and_smaller_calls_still_do(acme: Tenant) -> None:
    refused = uuid.uuid4()
    at = [NOON + dt.timedelta(minutes=n) for n in range(6)]
    write(
        [
            call(acme, 60, at=at[0]),
            NewEntry(tenant_id=acme.pk, kind=Kind.STORAGE, amount=1000, at=at[1]),  # no budget counts it
            call(acme, 50, at=at[1], reservation_id=refused, agent="reader"),
            call(acme, 40, at=at[2]),
            call(acme, 1, at=at[3]),
            call(acme, -10, at=at[4], kind=Kind.ADJUSTMENT, reservation_id=refused, agent="reader"),
            call(acme, 100, at=at[5] + dt.timedelta(days=1)),
        ],
        now=NOON,
    )
    outcome = simulate(scenario(acme, cap=Cap(100, "daily")))
    assert [(r.key, r.first_at, r.calls, r.amount) for r in outcome.refusals] == [("2026-10-10", at[1], 2, 51)]
    assert (outcome.refused_calls, outcome.refused_amount) == (2, 51)
    assert (outcome.total.actual, outcome.total.hypothetical) == (1241, 1200)
    assert {line.name: line.hypothetical for line in outcome.by_agent()} == {"": 1000, "writer": 200, "reader": 0}


def test_a_monthly_cap_counts_the_days_before_the_period_and_what_calls_would_cost(acme: Tenant, prices: None) -> None:
    write([call(acme, 70, at=NOON - dt.timedelta(days=3)), call(acme, 40_000_000)], now=NOON)
    fields = {"first": dt.date(2026, 10, 9)}
    assert simulate(scenario(acme, cap=Cap(40_000_070), **fields)).refusals == []
    assert simulate(scenario(acme, cap=Cap(40_000_069), **fields)).refused_calls == 1
    cheaper = simulate(scenario(acme, Replacement(LARGE, SMALL), cap=Cap(1_040_070), **fields))
    assert (cheaper.refused_calls, cheaper.total.hypothetical) == (0, 1_040_000)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"first": LAST, "last": FIRST}, "period", "ends before it begins"),
        ({"first": dt.date(2024, 1, 1)}, "period", "At most 366 days"),
        ({"replacements": (Replacement(LARGE, SMALL), Replacement(LARGE, LARGE))}, "replacements", "replaced twice"),
        ({"replacements": (Replacement(LARGE, "nobody:knows"),)}, "replacements", "nobody:knows"),
        ({"cap": Cap(1, "run")}, "cap", "per day or per month"),
    ],
)
def test_what_makes_no_sense_is_said(acme: Tenant, prices: None, fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(BadScenario, match=says) as refused:
        simulate(Scenario(**{"tenant": acme, "first": FIRST, "last": LAST, **fields}))
    assert refused.value.field == field


def test_a_busy_month_takes_few_queries_and_little_time(
    acme: Tenant, prices: None, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    count = 170_000
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO costs_ledgerentry (at, tenant_id, kind, model, agent, input_tokens, output_tokens,
                cache_read_tokens, cache_write_tokens, amount, unsettled, period_ids, external_id, run, note)
            SELECT %s::timestamptz + n * interval '15 seconds', %s, 'llm', 'simulated:large', 'writer', 800 + n %% 400,
                100, 0, 0, 12000000, false, '{}', '', '', '' FROM generate_series(1, %s) AS n
            """,
            [dt.datetime(2026, 10, 1, 5, tzinfo=dt.UTC), acme.pk, count],
        )
    began = time.process_time()  # others may be using the machine
    with django_assert_max_num_queries(6):
        outcome = simulate(scenario(acme, Replacement(LARGE, SMALL), cap=Cap(NANO)))
    assert time.process_time() - began < 3
    assert outcome.repriced == sum(cell.entries for cell in outcome.cells) == count
    assert outcome.refusals
