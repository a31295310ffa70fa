"""The ledger in the administration: filters, totals, the page of an entry, the export; for whom, and for whom not."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import Budget, BudgetPeriod, Kind, LedgerEntry, run_id
from apps.costs.spend_forms import LedgerForm
from apps.privacy.models import DataSubject
from apps.tenants.access import principal_of
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO, to_nano
from tests.admin_rows import make_rows
from tests.spending import AGENTS, DAY, MODELS, RATES, expected, local_day, read_csv, spend, staff, varied

LIST = "/admin/costs/ledgerentry/"
EXPORT = f"{LIST}export/"
NOBODY = uuid.UUID(int=5)
NOVEMBER = {"from": "2026-11-01", "to": "2026-11-30"}


def rows_of(response: Any) -> list[LedgerEntry]:
    rows: list[LedgerEntry] = response.context["cl"].result_list
    return rows


def page_of(entry: LedgerEntry) -> str:
    return reverse("admin:costs_ledgerentry_change", args=[entry.pk])


# -- filters and totals ------------------------------------------------------------------------------------------------


def random_filter(
    chance: random.Random, tenants: list[Tenant], entries: list[LedgerEntry]
) -> tuple[dict[str, str], Callable[[LedgerEntry], bool]]:
    """Parameters of the page, and the same said in Python."""
    some = chance.choice(entries)
    zones = {tenant.pk: tenant.zone for tenant in tenants}
    first = dt.date(2026, 10, 18) + dt.timedelta(days=chance.randrange(40))
    last = first + dt.timedelta(days=chance.randrange(35))
    corrected = {entry.corrects for entry in entries}
    offers: list[tuple[dict[str, str], Callable[[LedgerEntry], bool]]] = [
        ({"tenant": str(some.tenant_id)}, lambda e: e.tenant_id == some.tenant_id),
        ({"kind": some.kind}, lambda e: e.kind == some.kind),
        ({"model": MODELS[0]}, lambda e: e.model == MODELS[0]),
        ({"agent": AGENTS[1]}, lambda e: e.agent == AGENTS[1]),
        ({"user": str(some.subject_id or NOBODY)}, lambda e: e.subject_id == (some.subject_id or NOBODY)),
        ({"swarm": str(some.swarm_id or NOBODY)}, lambda e: e.swarm_id == (some.swarm_id or NOBODY)),
        ({"unsettled": "yes"}, lambda e: e.unsettled),
        ({"unsettled": "no"}, lambda e: not e.unsettled),
        ({"unsettled": "open"}, lambda e: e.unsettled and e.pk not in corrected),
        ({"id": str(some.pk)}, lambda e: some.pk in (e.pk, e.corrects)),
        ({"id": str(some.reservation_id or NOBODY)}, lambda e: e.reservation_id == (some.reservation_id or NOBODY)),
    ]  # fmt: skip
    when: tuple[dict[str, str], Callable[[LedgerEntry], bool]] = (
        ({"period": "any_time"}, lambda e: True)
        if chance.random() < 0.2
        else ({"from": str(first), "to": str(last)}, lambda e: first <= local_day(e, zones) <= last)
    )
    chosen = [when, *chance.sample(offers, chance.randrange(4))]
    # One state at most: they are one field.
    params: dict[str, str] = {}
    conditions: list[Callable[[LedgerEntry], bool]] = []
    for given, condition in chosen:
        if not given.keys() & params.keys():
            params |= given
            conditions.append(condition)
    return params, lambda e: all(condition(e) for condition in conditions)


@pytest.mark.django_db
def test_totals_and_export_are_those_of_the_rows_whatever_the_filter(
    platform_admin: User, acme: Tenant, rival: Tenant
) -> None:
    entries = varied([acme, rival])
    unsettled = next(entry for entry in entries if entry.unsettled)
    entries.append(spend(acme, -3, kind=Kind.ADJUSTMENT, corrects=unsettled.pk))
    client, chance = staff(platform_admin), random.Random(11)
    found_any = 0
    for number in range(60):
        params, holds = random_filter(chance, [acme, rival], entries)
        wanted = expected(entries, holds)
        found_any += bool(wanted)
        form = LedgerForm(params, principal=principal_of(platform_admin), now=timezone.now())
        assert form.is_valid(), form.errors
        assert {kind: list(sums) for kind, sums in form.chosen().totals().items()} == wanted, params
        if number % 5:
            continue
        page = client.get(LIST, params)
        by_kind = page.context["cl"].chosen.totals()
        assert {kind: list(sums) for kind, sums in by_kind.items()} == wanted, params
        shown = rows_of(page)
        ids = {entry.pk for entry in entries if holds(entry)}
        assert len(shown) == min(len(ids), 50), params
        assert {row.pk for row in shown} <= ids, params
        assert [row.at for row in shown] == sorted((row.at for row in shown), reverse=True)
        exported = read_csv(client.get(EXPORT, params))
        assert sorted(int(row["entry"]) for row in exported) == sorted(ids), params
        total = sum(line[0] for line in wanted.values())
        assert sum(to_nano(Decimal(row["amount_usd"])) for row in exported) == total
        assert page.context["cl"].summary[0]["entries"] == f"{len(ids):,}"
    assert found_any > 25


@pytest.mark.django_db
def test_days_are_those_of_the_tenants_calendar(finance: User, acme: Tenant) -> None:
    """C2: 03:30 UTC on 1 December is still 30 November in New York."""
    late = spend(acme, at=dt.datetime(2026, 12, 1, 3, 30, tzinfo=dt.UTC))
    client = staff(finance)
    assert [row.pk for row in rows_of(client.get(LIST, NOVEMBER))] == [late.pk]
    assert not rows_of(client.get(LIST, {"from": "2026-12-01", "to": "2026-12-31"}))
    assert read_csv(client.get(EXPORT, NOVEMBER))[0]["day"] == "2026-11-30"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "first", "last"),
    [
        ({}, "2026-11-01", "2026-11-24"),
        ({"period": "this_month"}, "2026-11-01", "2026-11-24"),
        ({"period": "last_month"}, "2026-10-01", "2026-10-31"),
        ({"period": "last_30_days"}, "2026-10-26", "2026-11-24"),
        ({"period": "this_year"}, "2026-01-01", "2026-11-24"),
        ({"period": "custom", "from": "2026-03-01"}, "2026-03-01", "2026-11-24"),
        ({"to": "2026-03-09"}, "2026-03-01", "2026-03-09"),
        ({"from": "2027-02-01"}, "2027-02-01", "2027-02-01"),
    ],
)
def test_time_frames(given: dict[str, str], first: str, last: str, finance: User, acme: Tenant) -> None:
    now = dt.datetime(2026, 11, 25, 2, tzinfo=dt.UTC)  # the evening of the 24th in New York
    form = LedgerForm(given, principal=principal_of(finance), now=now)
    assert form.is_valid(), form.errors
    frame = form.chosen().frame
    assert frame
    assert (str(frame.first), str(frame.last)) == (first, last)


@pytest.mark.django_db
def test_this_month_is_what_people_get_first_and_any_time_is_one_click(finance: User, acme: Tenant) -> None:
    spend(acme, at=timezone.now())
    old = spend(acme, day=dt.date(2025, 2, 3))
    client = staff(finance)
    page = client.get(LIST)
    assert len(rows_of(page)) == 1
    any_time = client.get(LIST + page.context["cl"].any_time_url)
    assert old in rows_of(any_time)
    assert len(rows_of(any_time)) == 2


@pytest.mark.django_db
def test_people_are_found_by_the_tenants_own_name_for_them_and_swarms_by_theirs(finance: User, acme: Tenant) -> None:
    entries = varied([acme])
    client = staff(finance)
    person = DataSubject.objects.get(reference="acme-user-1")
    page = client.get(LIST, {**NOVEMBER, "user": "acme-user-1"})
    assert rows_of(page)
    assert {row.subject_id for row in rows_of(page)} == {person.pk}
    nightly = client.get(LIST, {"period": "any_time", "swarm": "acme-nightly"})
    runs = {row.swarm_id for row in rows_of(nightly)}
    assert len(runs) == 2  # two runs of one name
    wanted = [entry for entry in entries if entry.swarm_id in runs]
    assert nightly.context["cl"].summary[0]["entries"] == f"{len(wanted):,}"


WRONG = [
    ({"from": "2026-99-99"}, "“2026-99-99” is not a day"),
    ({"from": "2026-11-20", "to": "2026-11-10"}, "before the first"),
    ({"period": "custom"}, "Say from which day"),
    ({"period": "next_month"}, "not one of the time frames"),
    ({"kind": "magic"}, "“magic” is not one of the kinds"),
    ({"user": "nobody@example.test"}, "Nobody is known as “nobody@example.test”"),
    ({"swarm": "no such swarm"}, "No swarm or run is called"),
    ({"id": "12x"}, "“12x” is no id"),
    ({"id": "9" * 40}, "is no id"),
    ({"unsettled": "perhaps"}, "not one of the states"),
    ({"tenant": "x"}, "not one of the tenants you may see"),
    ({"from": "0001-01-01"}, "outside the years"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("given", "says"), WRONG)
def test_a_wrong_filter_is_refused_with_words_and_loses_nothing(
    given: dict[str, str], says: str, finance: User, acme: Tenant
) -> None:
    spend(acme)
    client = staff(finance)
    page = client.get(LIST, {**given, "agent": "writer"})
    assert page.status_code == 200
    assert says in page.content.decode()
    assert not rows_of(page)
    form = page.context["cl"].form
    assert form["agent"].value() == "writer"
    assert all(form[name].value() == value for name, value in given.items())
    export = client.get(EXPORT, {**given, "agent": "writer"}, follow=True)
    assert says in export.content.decode()
    assert "Nothing was exported" in export.content.decode()
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_runs_elsewhere_are_told_and_found_by_their_name(finance: User, acme: Tenant, rival: Tenant) -> None:
    wanted = spend(acme, run="crew 7", swarm_id=run_id(acme.pk, "crew 7"))
    spend(acme, run="crew 8", swarm_id=run_id(acme.pk, "crew 8"))
    spend(rival, run="theirs", swarm_id=run_id(rival.pk, "theirs"))
    client = staff(finance)
    for name in ("crew 7", "crew 7 (elsewhere)"):
        page = client.get(LIST, {**NOVEMBER, "swarm": name})
        assert [row.pk for row in rows_of(page)] == [wanted.pk]
        assert "crew 7 (elsewhere)" in page.content.decode()
    page = client.get(LIST, {**NOVEMBER, "swarm": "theirs"})
    assert "No swarm or run is called" in page.content.decode()


@pytest.mark.django_db
def test_the_list_takes_the_same_queries_for_a_few_rows_and_for_many(
    finance: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    client = staff(finance)
    for more in (3, 60):
        for n in range(more):
            spend(acme, n + 1)
        with django_assert_max_num_queries(13):
            page = client.get(LIST, NOVEMBER)
        assert page.context["cl"].summary[0]["entries"] in ("3", "63")
        with django_assert_max_num_queries(8):
            assert len(read_csv(client.get(EXPORT, NOVEMBER))) in (3, 63)


# -- the page of an entry ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_entry_says_how_its_amount_comes_about(finance: User, acme: Tenant) -> None:
    """C1: 1,000 + 200 cached input tokens and 301 output tokens."""
    budget = Budget.objects.create(tenant=acme, name="All of Acme", limit=NANO)
    now = timezone.now()
    period = BudgetPeriod.objects.create(
        budget=budget, key="2026-11", starts_at=now, ends_at=now + dt.timedelta(days=9), limit=NANO, ceiling=NANO
    )
    entry = spend(
        acme, 1_112_000, input_tokens=1_200, cache_read_tokens=200, output_tokens=301, rates=RATES, model=MODELS[0],
        period_ids=[period.pk], run="run-7", external_id="event-9",
    )  # fmt: skip
    page = staff(finance).get(page_of(entry)).content.decode()
    for words in (
        "1,000 input tokens at $0.50 per million: $0.0005",
        "200 input tokens read from the provider&#x27;s cache at $0.05 per million: $0.00001",
        "301 output tokens at $2.00 per million: $0.000602",
        "Together $0.001112.",
        "0.001112 USD",
        "run-7",
        "event-9",
        "All of Acme, 2026-11",
        reverse("admin:costs_budgetperiod_change", args=[period.pk]),
    ):
        assert words in page, words


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": Kind.INFRASTRUCTURE, "quantity": Decimal("12.5"), "unit_price": 20_000_000},
         "12.5 agent-hours at $0.02 each."),
        ({"kind": Kind.STORAGE, "quantity": Decimal("1"), "unit_price": 23_000_000}, "1 GB-month at $0.023 each."),
        ({"kind": Kind.LLM}, "The amount was given as it stands."),
        ({"input_tokens": 1, "rates": RATES, "amount": 1_000}, "1 input token at $0.50 per million: $0.0000005."),
        ({"input_tokens": 5}, "5 input tokens."),
        ({"input_tokens": 1, "rates": RATES._replace(input_per_mtok=1_500_000), "amount": 2},
         "Together $0.0000000015, rounded up to a whole nano-dollar."),
        ({"input_tokens": 9, "rates": RATES, "unsettled": True}, "it was charged as high as it was reserved."),
    ],
)  # fmt: skip
def test_what_was_counted_is_said_in_words(fields: dict[str, Any], says: str, viewer: User, acme: Tenant) -> None:
    entry = spend(acme, **fields)
    assert says in staff(viewer).get(page_of(entry)).content.decode()


@pytest.mark.django_db
def test_corrections_are_linked_both_ways(finance: User, acme: Tenant) -> None:
    entry = spend(acme, 5 * NANO, unsettled=True)
    correction = spend(acme, -2 * NANO, kind=Kind.ADJUSTMENT, corrects=entry.pk)
    client = staff(finance)
    page = client.get(page_of(entry)).content.decode()
    assert page_of(correction) in page
    assert "3.00 USD" in page
    assert page_of(entry) in client.get(page_of(correction)).content.decode()


# -- and everybody else ------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_outsider_finds_no_entry_and_exports_none(outsider: User, acme: Tenant) -> None:
    entry = spend(acme)
    client = staff(outsider)
    assert not rows_of(client.get(LIST, {"period": "any_time"}))
    for given in ({"tenant": str(acme.pk)}, {"id": str(entry.pk)}, {"period": "any_time"}):
        response = client.get(EXPORT, given)
        assert response.status_code == 302 or not read_csv(response)
        assert not rows_of(client.get(LIST, given))
    assert client.get(page_of(entry)).status_code in (302, 403, 404)


@pytest.mark.django_db
def test_another_tenants_name_for_a_person_leads_nowhere(outsider: User, acme: Tenant) -> None:
    DataSubject.objects.create(tenant_id=acme.pk, reference="user-8842")
    page = staff(outsider).get(LIST, {"user": "user-8842"}).content.decode()
    assert "Nobody is known as “user-8842” here" in page


@pytest.mark.django_db
@pytest.mark.parametrize("role", list(Role))
def test_who_reads_costs_sees_and_exports_them(role: str, acme: Tenant) -> None:
    user = User.objects.create_user(f"a-{role}")
    Membership.objects.create(user=user, tenant=acme, role=role)
    spend(acme)
    client = staff(user)
    status = 403 if role == Role.COMPLIANCE else 200
    assert client.get(LIST, NOVEMBER).status_code == status
    response = client.get(EXPORT, NOVEMBER)
    assert response.status_code == status
    if status == 200:
        assert len(read_csv(response)) == 1
    trail = AuditEntry.objects.filter(action="cost:export", tenant_id=acme.pk, actor=str(user.pk))
    assert trail.count() == (status == 200)


@pytest.mark.django_db
def test_nobody_exports_without_logging_in(acme: Tenant) -> None:
    assert Client().get(EXPORT).status_code == 302


@pytest.mark.django_db
def test_text_in_the_export_is_never_a_formula(finance: User, acme: Tenant) -> None:
    spend(acme, -5, kind=Kind.ADJUSTMENT, note='=HYPERLINK("http://x")', agent="+1", run="fine")
    (row,) = read_csv(staff(finance).get(EXPORT, NOVEMBER))
    assert (row["note"], row["agent"], row["run"]) == ('\'=HYPERLINK("http://x")', "'+1", "fine")
    assert row["amount_usd"] == "-0.000000005"


@pytest.mark.django_db
def test_the_ledger_shows_no_prompt_and_no_persons_name(finance: User, acme: Tenant) -> None:
    make_rows(acme, 1)
    entry = LedgerEntry.objects.latest("pk")
    client = staff(finance)
    rows = read_csv(client.get(EXPORT))
    for text in (client.get(LIST).content.decode(), client.get(page_of(entry)).content.decode(), str(rows)):
        assert "Say {{" not in text
        assert "broke" not in text
        assert "-person" not in text
    assert rows[0]["user_pseudonym"] == str(entry.subject_id)


def test_an_asynchronous_server_sends_the_export_piece_by_piece(own_database: str, finance: User, acme: Tenant) -> None:
    for n in range(3):
        spend(acme, n + 1)
    finance.is_staff = True
    finance.save()

    async def download() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(finance)
        response: Any = await client.get(EXPORT, NOVEMBER)
        assert response.is_async
        return [piece async for piece in response.streaming_content]

    lines = b"".join(asyncio.run(download())).decode().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("entry,at_utc,day,tenant,kind,amount_usd")
    assert str(DAY) in lines[1]
