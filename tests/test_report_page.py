"""The page about spending: its figures are those of the ledger, its links lead to the entries behind them."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.frames import Frame, same_days_last_month
from apps.costs.models import Kind, LedgerEntry
from apps.costs.report_page import change
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO, to_nano
from tests.admin_rows import analyse
from tests.spending import DAY, local_day, read_csv, spend, staff, varied

pytestmark = pytest.mark.django_db

PAGE = "/admin/costs/report/"
DAYS = {"from": "2026-11-05", "to": "2026-11-14"}


def usd(text: str) -> int:
    """Nano-dollars of "1.50 USD"."""
    return to_nano(Decimal(text.removesuffix(" USD")))


def test_days_and_groups_are_sums_of_the_ledger(platform_admin: User, acme: Tenant, rival: Tenant) -> None:
    """C6"""
    entries = varied([acme, rival])
    zones = {tenant.pk: tenant.zone for tenant in (acme, rival)}
    client, chance = staff(platform_admin), random.Random(5)
    keys = {"model": "model", "agent": "agent", "swarm": "swarm_id", "user": "subject_id", "tenant": "tenant_id"}
    for by, attribute in keys.items():
        first = dt.date(2026, 10, 20) + dt.timedelta(days=chance.randrange(20))
        last = first + dt.timedelta(days=chance.randrange(25))
        given = {"from": str(first), "to": str(last), "by": by}
        if by == "model":
            given["tenant"] = str(rival.pk)
        within = [
            entry
            for entry in entries
            if first <= local_day(entry, zones) <= last and given.get("tenant") in (None, str(entry.tenant_id))
        ]
        report = client.get(PAGE, given).context["report"]
        assert report.total == sum(entry.amount for entry in within)
        assert report.entries == len(within)
        of_day = {day["day"]: usd(day["exact"]) for day in report.days}
        assert len(of_day) == (last - first).days + 1
        for day, amount in of_day.items():
            assert amount == sum(entry.amount for entry in within if local_day(entry, zones) == day)
        wanted: dict[str, int] = {}
        for entry in within:
            key = str(getattr(entry, attribute) or "")
            wanted[key] = wanted.get(key, 0) + entry.amount
        assert sorted(usd(line.exact) for line in report.grouped.lines) == sorted(wanted.values())
        downloaded = read_csv(client.get(PAGE, {**given, "download": "groups"}))
        assert {row[by]: usd(row["amount_usd"]) for row in downloaded} == wanted
        days = read_csv(client.get(PAGE, {**given, "download": "days"}))
        assert {dt.date.fromisoformat(row["day"]): usd(row["total_usd"]) for row in days} == of_day


def test_every_link_leads_to_just_the_entries_that_its_line_adds_up(finance: User, acme: Tenant) -> None:
    varied([acme])
    client = staff(finance)
    report = client.get(PAGE, DAYS).context["report"]
    lines = [line for table in report.tables for line in table.lines if line.url]
    assert len(lines) == 3 + 2 + 2 + 2  # swarms, models, people, agents
    for line in lines:
        summary = client.get(line.url).context["cl"].summary
        assert (summary[0]["exact"], summary[0]["entries"]) == (line.exact, line.entries), line
    for day in report.days[:3]:
        assert client.get(day["url"]).context["cl"].summary[0]["exact"] == day["exact"]


def test_the_trend_is_told_in_words(finance: User, acme: Tenant) -> None:
    spend(acme, 3 * NANO)
    spend(acme, 2 * NANO, day=dt.date(2026, 10, 30))
    page = staff(finance).get(PAGE, DAYS).content.decode()
    assert "+50.0 %" in page
    assert "$1.00 more than in the 10 days before, 50.0 % up (26 Oct to 4 Nov 2026: $2.00)" in page


@pytest.mark.parametrize(
    ("amount", "previous", "words"),
    [
        (3 * NANO, 2 * NANO, "$1.00 more than last month, 50.0 % up"),
        (NANO, 2 * NANO, "$1.00 less than last month, 50.0 % down"),
        (NANO, NANO, "the same as last month"),
        (NANO, 0, "nothing was spent last month"),
        (0, 0, "nothing was spent last month either"),
        (NANO, -NANO, "$2.00 more than last month, 200.0 % up"),
    ],
)
def test_changes_in_words(amount: int, previous: int, words: str) -> None:
    assert change(amount, previous, "last month") == words


@pytest.mark.parametrize(
    ("first", "last", "before"),
    [
        ("2026-11-01", "2026-11-24", ("2026-10-01", "2026-10-24")),
        ("2026-03-01", "2026-03-31", ("2026-02-01", "2026-02-28")),
        ("2026-01-01", "2026-01-01", ("2025-12-01", "2025-12-01")),
    ],
)
def test_the_same_days_of_last_month(first: str, last: str, before: tuple[str, str]) -> None:
    frame = Frame(dt.date.fromisoformat(first), dt.date.fromisoformat(last), "")
    found = same_days_last_month(frame)
    assert (str(found.first), str(found.last)) == before


def test_days_without_spending_say_what_to_do(finance: User, acme: Tenant) -> None:
    page = staff(finance).get(PAGE, DAYS).content.decode()
    assert "Nothing was spent in these days" in page
    assert "/admin/costs/ledgerentry/?period=any_time" in page


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"from": "2026-13-01"}, "“2026-13-01” is not a day"),
        ({"from": "2026-11-20", "to": "2026-11-10"}, "before the first"),
        ({"from": "2010-01-01", "to": "2026-11-10"}, "Choose at most 1,098 (three years)"),
        ({"period": "any_time"}, "not one of the time frames"),
        ({"period": "this_month", "from": "2026-11-10"}, "choose “From a day to a day”"),
        ({"by": "colour"}, "not something to group by"),
        ({"tenant": "x"}, "not one of the tenants"),
    ],
)
def test_a_wrong_choice_is_refused_with_words_and_loses_nothing(
    given: dict[str, str], says: str, finance: User, acme: Tenant
) -> None:
    spend(acme)
    client = staff(finance)
    page = client.get(PAGE, {"by": "agent", **given})
    assert page.status_code == 200
    assert says in page.content.decode()
    assert "report" not in page.context
    form = page.context["form"]
    assert all(form[name].value() == value for name, value in {"by": "agent", **given}.items())
    refused = client.get(PAGE, {"by": "agent", **given, "download": "days"}, follow=True)
    assert says in refused.content.decode()
    assert not AuditEntry.objects.exists()


def test_people_appear_by_their_pseudonym_only(finance: User, acme: Tenant) -> None:
    varied([acme])
    client = staff(finance)
    page = client.get(PAGE, {**DAYS, "by": "user"})
    download = read_csv(client.get(PAGE, {**DAYS, "by": "user", "download": "groups"}))
    assert "acme-user-" not in page.content.decode() + str(download)
    people = {str(pk) for pk in LedgerEntry.objects.exclude(subject_id=None).values_list("subject_id", flat=True)}
    assert {row["user"] for row in download} == {*people, ""}


def test_a_download_is_in_the_audit_trail_and_holds_no_formula(finance: User, acme: Tenant) -> None:
    spend(acme, agent="=1+1")
    (row,) = read_csv(staff(finance).get(PAGE, {**DAYS, "by": "agent", "download": "groups"}))
    assert (row["agent"], row["name"]) == ("'=1+1", "'=1+1")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.tenant_id, entry.details["what"]) == ("cost:export", acme.pk, "report: groups")


def test_the_page_takes_the_same_queries_whatever_was_spent(
    finance: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    client = staff(finance)
    varied([acme], 20)
    client.get(PAGE, DAYS)
    for count in (10, 200):
        varied([acme], count, seed=count)
        with django_assert_max_num_queries(46):
            assert client.get(PAGE, DAYS).context["report"].entries


# -- and everybody else ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_who_reads_costs_opens_the_page(role: str, acme: Tenant) -> None:
    user = User.objects.create_user(f"a-{role}")
    Membership.objects.create(user=user, tenant=acme, role=role)
    spend(acme)
    client = staff(user)
    reads = role != Role.COMPLIANCE
    assert client.get(PAGE, DAYS).status_code == (200 if reads else 403)
    assert client.get(PAGE, {**DAYS, "download": "days"}).status_code == (200 if reads else 403)
    assert (PAGE in client.get("/admin/").content.decode()) == reads


def test_the_outsider_sees_nothing_of_acme(outsider: User, acme: Tenant) -> None:
    spend(acme, model="acme:secret")
    client = staff(outsider)
    page = client.get(PAGE, DAYS)
    assert page.context["report"].total == 0
    assert "acme" not in page.content.decode().lower()
    refused = client.get(PAGE, {**DAYS, "tenant": str(acme.pk)})
    assert "not one of the tenants you may see" in refused.content.decode()
    assert "report" not in refused.context
    assert all(row["total_usd"] == "0.00" for row in read_csv(client.get(PAGE, {**DAYS, "download": "days"})))


def test_finance_sees_no_prompt_and_no_output(finance: User, acme: Tenant) -> None:
    varied([acme])
    text = staff(finance).get(PAGE, {**DAYS, "by": "swarm"}).content.decode()
    assert "acme-nightly" in text
    assert "Say {{" not in text
    assert "broke" not in text


# -- the first page ----------------------------------------------------------------------------------------------------


def test_the_first_page_tells_finance_what_this_month_cost_and_what_is_unsettled(
    finance: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    now = timezone.now()
    spend(acme, 5 * NANO, at=now)
    charged = spend(acme, 2 * NANO, at=now, unsettled=True)
    client = staff(finance)
    analyse()
    with django_assert_max_num_queries(25):
        page = client.get("/admin/")
    cards = {card.title: card for card in page.context["cards"]}
    assert cards["Spent this month"].value == "$7.00"
    assert cards["Unsettled charges"].value == "1"
    assert "$2.00" in cards["Unsettled charges"].detail
    assert [row.pk for row in client.get(cards["Unsettled charges"].url).context["cl"].result_list] == [charged.pk]
    spend(acme, -NANO, at=now, kind=Kind.ADJUSTMENT, corrects=charged.pk)
    cards = {card.title: card for card in client.get("/admin/").context["cards"]}
    assert cards["Unsettled charges"].value == "0"


def test_the_first_page_shows_no_amount_of_another_tenant(outsider: User, acme: Tenant) -> None:
    spend(acme, 5 * NANO, at=timezone.now(), unsettled=True)
    cards = {card.title: card for card in staff(outsider).get("/admin/").context["cards"]}
    assert cards["Spent this month"].value == "$0.00"
    assert cards["Unsettled charges"].value == "0"


def test_the_day_of_an_entry_is_the_tenants(finance: User, acme: Tenant) -> None:
    spend(acme, at=dt.datetime(2026, 11, 11, 3, tzinfo=dt.UTC))  # the evening of the 10th in New York
    report = staff(finance).get(PAGE, DAYS).context["report"]
    assert [day["day"] for day in report.days if day["entries"] != "0"] == [DAY]
