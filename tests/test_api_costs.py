"""The ledger and the cost report over the API: exact, narrowed as asked, as CSV too, for those who may read costs."""

from __future__ import annotations

import csv
import datetime as dt
import io
import uuid
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from apps.audit.models import AuditEntry
from apps.costs import rollups
from apps.costs.entries import NewEntry, write
from apps.costs.models import Kind, LedgerEntry
from apps.costs.prices import Rates
from apps.privacy.models import DataSubject
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.ids import uuid7
from portal.money import NANO
from tests.admin_rows import make_swarm
from tests.api_client import V1, Caller, attrs, is_refusal

pytestmark = pytest.mark.django_db
NOW = dt.datetime(2026, 11, 21, 3, tzinfo=dt.UTC)  # the evening of the 20th in New York, noon of the 21st in Tokyo
NOVEMBER = "from=2026-11-01&to=2026-11-30"


def entry(tenant: Tenant, amount: int = NANO, **fields: Any) -> NewEntry:
    return NewEntry(tenant_id=tenant.pk, **{"kind": Kind.LLM, "amount": amount, "at": NOW, **fields})


@pytest.fixture
def spent(acme: Tenant, rival: Tenant) -> dict[str, Any]:
    """Some of everything; half of it rolled up."""
    swarm = make_swarm(acme, "brief")
    user = DataSubject.objects.pseudonym(acme.pk, "user-8842")
    ids = write(
        [
            entry(
                acme,
                420_000,
                swarm_id=swarm.pk,
                subject_id=user,
                agent="writer",
                model="simulated:small",
                input_tokens=1200,
                output_tokens=400,
                rates=Rates(150_000_000, 600_000_000, 150_000_000, 150_000_000),
            ),
            entry(acme, 2 * NANO, kind=Kind.INFRASTRUCTURE, swarm_id=swarm.pk),
            entry(rival, 7 * NANO, model="simulated:large", agent="=spy"),
        ],
        now=NOW,
    )
    rollups.roll(now=NOW, upto=ids[-1])
    ids += write(
        [
            entry(acme, 3 * NANO, kind=Kind.STORAGE, at=NOW - dt.timedelta(days=1)),
            entry(acme, -20_000, kind=Kind.ADJUSTMENT, reservation_id=uuid7(), corrects=ids[0]),
            entry(acme, 5 * NANO, agent="writer", model="simulated:large", at=NOW - dt.timedelta(days=32)),
        ],
        now=NOW,
    )
    return {"ids": ids, "swarm": swarm, "user": user}


def rows_of(response: Any) -> list[dict[str, str]]:
    body = response.getvalue() if response.streaming else response.content
    return list(csv.DictReader(io.StringIO(body.decode())))


def plain(call: Caller, path: str, **headers: str) -> Any:
    """A response that is not JSON, and so not held against the schema."""
    return call.client.get(f"{V1}{path}", headers={**call.headers, **headers})


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_an_entry_is_told_with_how_it_comes_about(finance: User, spent: dict[str, Any]) -> None:  # C1
    body = Caller(finance).get("/costs/ledger/?model=simulated:small").json()
    (row,) = body["results"]
    assert row["id"] == spent["ids"][0]
    assert row["at"] == "2026-11-21T03:00:00Z"
    assert (row["tenant"], row["kind"], row["amount_usd"]) == ("acme", "llm", "0.00042")
    assert (row["swarm"], row["user"], row["agent"]) == (str(spent["swarm"].pk), str(spent["user"]), "writer")
    assert (row["input_tokens"], row["input_usd_per_mtok"], row["output_usd_per_mtok"]) == (1200, "0.15", "0.60")
    assert (row["quantity"], row["unsettled"], row["corrects"]) == (None, False, None)


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("", [1, 4, 0, 3, 5]),  # the latest first; of the same moment, those that were written last
        ("from=2026-11-20&to=2026-11-20", [4, 1, 0]),  # the 20th of New York
        ("from=2026-11-21", []),
        ("from=2026-11-21T03:00:00Z", [4, 1, 0]),
        ("to=2026-11-21T03:00:00Z", [3, 5]),
        ("from=2026-11-20T05:00:00-05:00", [4, 1, 0]),
        ("to=2026-10-31", [5]),
        ("user=user-8842", [0]),
        ("user={user}", [0]),
        ("user=nobody", []),
        ("user=019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11", []),
        ("swarm={swarm.pk}", [1, 0]),
        ("swarm={swarm.pk}&kind=llm", [0]),
        ("agent=writer", [0, 5]),
        ("agent=", [4, 1, 3]),
        ("agent=writer&from=2026-11-01", [0]),
        ("model=simulated:large", [5]),
        ("model=none", []),
        ("kind=adjustment", [4]),
        ("unsettled=true", []),
        ("unsettled=false&kind=storage", [3]),
        ("tenant=acme&kind=storage", [3]),
        ("tenant=rival", []),
        ("tenant=nowhere", []),
    ],
)
def test_the_ledger_is_narrowed(finance: User, spent: dict[str, Any], query: str, places: list[int]) -> None:
    found = Caller(finance).get(f"/costs/ledger/?{query.format(**spent)}").json()["results"]
    expected = [spent["ids"][place] for place in places]
    assert sorted(row["id"] for row in found) == sorted(expected)
    assert [row["id"] for row in found] == sorted(
        expected, key=lambda id: (LedgerEntry.objects.get(pk=id).at, id), reverse=True
    )


@pytest.mark.parametrize("query", ["", "model=m&"])
def test_pages_of_the_ledger_meet_without_gap_or_overlap(finance: User, acme: Tenant, query: str) -> None:
    times = [NOW - dt.timedelta(hours=7 * (n // 2)) for n in range(24)]
    ids = write([entry(acme, n, at=at, model="m") for n, at in enumerate(times)], now=NOW)
    rollups.roll(now=NOW, upto=ids[15])
    write([entry(acme, n, at=at, model="other") for n, at in enumerate(times)] if query else [], now=NOW)
    call = Caller(finance)
    page = call.get(f"/costs/ledger/?{query}page_size=5").json()
    found = [row["id"] for row in page["results"]]
    while page["next"]:
        page = call.get(page["next"]).json()
        found += [row["id"] for row in page["results"]]
    assert found == sorted(ids, key=lambda id: (times[ids.index(id)], id), reverse=True)
    back: list[int] = []
    while page["previous"]:
        page = call.get(page["previous"]).json()
        back = [row["id"] for row in page["results"]] + back
    assert back == found[: len(back)]
    assert len(back) == 20


def test_a_rare_agent_is_found_however_far_back(finance: User, acme: Tenant) -> None:
    """Roll-ups say on which days to look; what they do not have yet is looked for as well."""
    often = [entry(acme, agent="often", at=NOW - dt.timedelta(days=n)) for n in range(40)]
    ids = write([*often, entry(acme, agent="rare", at=NOW - dt.timedelta(days=300))], now=NOW)
    rollups.roll(now=NOW, upto=ids[-1])
    late = write([entry(acme, agent="rare", at=NOW - dt.timedelta(days=400))], now=NOW)
    found = Caller(finance).get("/costs/ledger/?agent=rare").json()["results"]
    assert [row["id"] for row in found] == [ids[-1], *late]


@pytest.mark.parametrize(
    ("query", "blamed"),
    [
        ("kind=magic", {"kind"}),
        ("from=yesterday", {"from"}),
        ("from=2026-02-30", {"from"}),
        ("from=2026-11-20T05:00:00", {"from"}),  # at whose five o'clock?
        ("from=0001-01-01&to=9999-12-31", {"from", "to"}),
        ("from=2026-11-20&to=2026-11-19", {"to"}),
        ("swarm=brief", {"swarm"}),
        ("colour=red&unsettled=maybe", {"colour", "unsettled"}),
        ("cursor=abc", {"cursor"}),
        ("cursor=W2ZhbHNlLCJ4IiwxXQ&agent=writer", {"cursor"}),
    ],
)
def test_wrong_questions_are_refused(finance: User, query: str, blamed: set[str]) -> None:
    for ending in ("",) if "cursor" in blamed else ("", "&format=csv"):  # a file has no pages
        answer = Caller(finance).get(f"/costs/ledger/?{query}{ending}")
        assert is_refusal(answer, 400), answer.content
        assert attrs(answer) == blamed


def test_a_reference_that_several_tenants_have_needs_the_tenant(
    finance: User, acme: Tenant, rival: Tenant, spent: dict[str, Any]
) -> None:
    DataSubject.objects.pseudonym(rival.pk, "user-8842")
    assert len(Caller(finance).get("/costs/ledger/?user=user-8842").json()["results"]) == 1
    both = Client()
    Membership.objects.create(user=finance, tenant=rival, role=Role.FINANCE)
    both.force_login(finance)
    answer = both.get(f"{V1}/costs/ledger/?user=user-8842")
    assert attrs(answer) == {"user"}
    assert len(both.get(f"{V1}/costs/ledger/?user=user-8842&tenant=acme").json()["results"]) == 1


def test_the_ledger_as_csv_streams_all_of_it(finance: User, spent: dict[str, Any]) -> None:
    call = Caller(finance)
    asked, accepted = plain(call, "/costs/ledger/?format=csv"), plain(call, "/costs/ledger/", Accept="text/csv")
    assert asked.streaming
    assert asked.headers["Content-Type"] == accepted.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = rows_of(asked)
    assert rows == rows_of(accepted)
    assert [int(row["entry"]) for row in rows] == [spent["ids"][place] for place in (5, 3, 0, 1, 4)]
    assert {row["tenant"] for row in rows} == {"acme"}
    assert float(rows[2]["amount_usd"]) == 0.00042
    assert rows_of(plain(call, "/costs/ledger/?format=csv&tenant=rival")) == []
    assert AuditEntry.objects.filter(action="cost:export", tenant_id=spent["swarm"].tenant_id).count() == 2


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_adds_up_days_groups_and_the_period_before(finance: User, spent: dict[str, Any]) -> None:  # C6
    body = Caller(finance).get(f"/costs/report/?{NOVEMBER}&group_by=model&tenant=acme").json()
    assert (body["tenant"], body["first"], body["last"]) == ("acme", "2026-11-01", "2026-11-30")
    assert body["total"] == {
        "total_usd": "5.0004",
        "llm_usd": "0.0004",  # with its correction
        "infrastructure_usd": "2.00",
        "storage_usd": "3.00",
        "adjustment_usd": "0.00",
        "entries": 4,
    }
    assert body["previous"] == {"first": "2026-10-02", "last": "2026-10-31", "total_usd": "5.00"}
    assert body["trend_percent"] == 0.0
    assert len(body["days"]) == 30
    by_day = {day["day"]: day for day in body["days"] if day["entries"]}
    assert {day: (row["total_usd"], row["active_swarms"]) for day, row in by_day.items()} == {
        "2026-11-19": ("3.00", 0),
        "2026-11-20": ("2.0004", 1),
    }
    groups = {group["key"]: (group["amount_usd"], group["previous_usd"]) for group in body["groups"]}
    assert groups == {"simulated:small": ("0.00042", "0.00"), None: ("4.99998", "0.00")}
    assert (body["rest"], body["other_groups"]) == (None, 0)


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("tenant", {"Acme"}),
        ("user", {"user-8842", ""}),
        ("swarm", {"brief", ""}),
        ("agent", {"writer", ""}),
        ("model", {"simulated:small", ""}),
        ("kind", {"Model calls", "Infrastructure", "Storage"}),
    ],
)
def test_groups_have_names_and_add_up(finance: User, spent: dict[str, Any], by: str, labels: set[str]) -> None:
    body = Caller(finance).get(f"/costs/report/?{NOVEMBER}&group_by={by}").json()
    assert body["group_by"] == by
    assert {group["label"] for group in body["groups"]} == labels
    assert sum(group["entries"] for group in body["groups"]) == body["total"]["entries"] == 4


def test_what_is_beyond_the_top_is_one_rest(finance: User, acme: Tenant) -> None:
    month = dt.timedelta(days=31)
    write([entry(acme, n * NANO, agent=f"a{n}") for n in range(1, 6)], now=NOW)
    write([entry(acme, n * NANO, agent=f"a{n}", at=NOW - month) for n in (1, 5)], now=NOW)
    body = Caller(finance).get(f"/costs/report/?{NOVEMBER}&group_by=agent&top=2").json()
    assert [(g["key"], g["amount_usd"], g["previous_usd"], g["trend_percent"]) for g in body["groups"]] == [
        ("a5", "5.00", "5.00", 0.0),
        ("a4", "4.00", "0.00", None),
    ]
    assert (body["rest"]["amount_usd"], body["rest"]["previous_usd"], body["other_groups"]) == ("6.00", "1.00", 3)


def test_without_days_it_is_the_last_thirty(finance: User, acme: Tenant) -> None:
    body = Caller(finance).get("/costs/report/").json()
    assert len(body["days"]) == 30
    assert body["trend_percent"] is None
    assert body["total"]["total_usd"] == "0.00"
    assert Caller(finance).get("/costs/report/?from=2026-11-01&to=2026-11-01").json()["days"][0]["entries"] == 0


@pytest.mark.parametrize(
    ("query", "blamed"),
    [
        ("group_by=colour", {"group_by"}),
        ("from=2026-11-02&to=2026-11-01", {"to"}),
        ("from=2026-11-01T00:00:00Z", {"from"}),
        ("from=2010-01-01&to=2026-11-01", {"from"}),
        ("from=0001-01-01&to=0001-01-02", {"from"}),
        ("to=9999-12-31", {"from"}),
        ("to=0001-01-01", {"from"}),
        ("top=0", {"top"}),
        ("top=1001&page=2", {"top", "page"}),
    ],
)
def test_wrong_reports_are_refused(finance: User, query: str, blamed: set[str]) -> None:
    for ending in ("", "&format=csv"):
        answer = Caller(finance).get(f"/costs/report/?{query}{ending}")
        assert is_refusal(answer, 400), answer.content
        assert attrs(answer) == blamed


def test_the_report_as_csv_is_days_or_groups(
    finance: User, rival: Tenant, outsider: User, spent: dict[str, Any]
) -> None:
    call = Caller(finance)
    days = plain(call, f"/costs/report/?{NOVEMBER}&format=csv")
    assert days.headers["Content-Disposition"] == 'attachment; filename="costs-all-2026-11-01-to-2026-11-30.csv"'
    rows = rows_of(days)
    assert len(rows) == 30
    assert (rows[19]["day"], rows[19]["total_usd"], rows[19]["active_swarms"]) == ("2026-11-20", "2.0004", "1")
    groups = rows_of(plain(call, f"/costs/report/?{NOVEMBER}&group_by=swarm", Accept="text/csv"))
    assert [(row["name"], row["amount_usd"]) for row in groups] == [("", "2.99998"), ("brief", "2.00042")]
    # What a tenant called its agent is no formula in the spreadsheet of somebody else.
    spied = rows_of(plain(Caller(outsider), f"/costs/report/?{NOVEMBER}&group_by=agent&format=csv"))
    assert [row["agent"] for row in spied] == ["'=spy"]
    top = rows_of(plain(call, f"/costs/report/?{NOVEMBER}&group_by=kind&top=1&format=csv"))
    assert [row["name"] for row in top] == ["Storage", "2 others"]


# -- who sees what -----------------------------------------------------------------------------------------------------


def test_the_outsider_sees_nothing(outsider: User, spent: dict[str, Any]) -> None:  # A5
    call = Caller(outsider)
    for query in ("", f"swarm={spent['swarm'].pk}", f"user={spent['user']}", "user=user-8842", "tenant=acme"):
        found = call.get(f"/costs/ledger/?{query}").json()["results"]
        assert [row["tenant"] for row in found] == (["rival"] if not query else [])
    hidden, missing = (call.get(f"/costs/report/?{NOVEMBER}&tenant={slug}").json() for slug in ("acme", "nowhere"))
    assert hidden == missing
    assert hidden["total"]["entries"] == 0
    assert call.get(f"/costs/report/?{NOVEMBER}&group_by=tenant").json()["groups"][0]["label"] == "Rival"
    assert rows_of(plain(call, "/costs/ledger/?format=csv&tenant=acme")) == []


def test_reading_costs_needs_the_permission(acme: Tenant, spent: dict[str, Any]) -> None:
    officer = User.objects.create(username="officer")
    Membership.objects.create(user=officer, tenant=acme, role=Role.COMPLIANCE)
    call = Caller(officer)
    assert call.get("/costs/ledger/").json()["results"] == []
    assert call.get(f"/costs/report/?{NOVEMBER}").json()["total"]["entries"] == 0
    for path in ("/costs/ledger/", "/costs/report/"):
        assert is_refusal(Caller(None).get(path), 401)
        assert is_refusal(Caller(None).get(f"{path}?format=csv"), 401)


def test_the_platform_admin_reads_all_tenants_at_once(platform_admin: User, spent: dict[str, Any]) -> None:
    client = Client()
    client.force_login(platform_admin)
    body = client.get(f"{V1}/costs/report/?{NOVEMBER}&group_by=tenant").json()
    assert [(group["label"], group["amount_usd"]) for group in body["groups"]] == [
        ("Rival", "7.00"),
        ("Acme", "5.0004"),
    ]
    assert len(client.get(f"{V1}/costs/ledger/").json()["results"]) == 6


def test_queries_do_not_grow(
    finance: User, acme: Tenant, spent: dict[str, Any], django_assert_max_num_queries: Any
) -> None:
    write([entry(acme, 1, swarm_id=uuid.uuid4(), agent=f"a{n}", model=f"m{n}") for n in range(60)], now=NOW)
    call = Caller(finance)
    call.get("/me/")
    with django_assert_max_num_queries(5):
        assert len(call.get("/costs/ledger/").json()["results"]) == 50
    with django_assert_max_num_queries(8):
        call.get(f"/costs/ledger/?agent=writer&{NOVEMBER}")
    with django_assert_max_num_queries(16) as counted:
        call.get(f"/costs/report/?{NOVEMBER}&group_by=swarm&tenant=acme")
    assert not [
        query for query in counted.captured_queries if "count(*) from costs_ledgerentry" in query["sql"].lower()
    ]


def test_a_tenant_that_is_gone_leaves_its_costs(platform_admin: User, spent: dict[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO costs_ledgerentry SELECT (jsonb_populate_record(l, jsonb_build_object("
            "'id', 10^9::bigint, 'tenant_id', %s))).* FROM costs_ledgerentry l LIMIT 1",
            [str(uuid7())],
        )
    client = Client()
    client.force_login(platform_admin)
    found = client.get(f"{V1}/costs/ledger/?page_size=200").json()["results"]
    assert [row["tenant"] for row in found].count(None) == 1
    report = client.get(f"{V1}/costs/report/?{NOVEMBER}&group_by=tenant").json()
    assert report["total"]["entries"] == 6
