"""Costs of agents elsewhere over the API: charged once, priced, row by row, to the budgets that watch them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import IntegrityError
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs import consistency
from apps.costs.grouping import By, labels
from apps.costs.models import BudgetPeriod, ExternalEvent, LedgerEntry, Price, run_id
from apps.costs.reserving import reserve
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO
from tests.api_client import Caller, attrs, is_refusal
from tests.costs import budget, call, period, verify_money_is_whole
from tests.external import ago, event, tokens

pytestmark = pytest.mark.django_db
CENTS = NANO // 100
PATH = "/costs/events/"


@pytest.fixture
def send(developer: User) -> Caller:
    return Caller(developer)


@pytest.fixture
def small(acme: Tenant) -> Price:
    """15 cents and 60 cents for a million tokens, since 2026 began."""
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return Price.objects.create(
        provider="simulated",
        model="small",
        input_per_mtok=15 * CENTS,
        output_per_mtok=60 * CENTS,
        effective_from=since,
    )


def problems(response: Any) -> list[tuple[int, str, str | None]]:
    return [(error["index"], error["code"], error["attr"]) for error in response.json()["errors"]]


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_one_event_becomes_a_ledger_entry_that_says_everything(send: Caller, acme: Tenant) -> None:  # C9
    given = event(agent="crawler", end_user="user-8842", run="crew-7", model="elsewhere:big", amount_usd="0.123456789")
    answer = send.post(PATH, given)
    assert answer.status_code == 201
    assert answer.json() == {
        "recorded": 1,
        "duplicates": 0,
        "failed": 0,
        "amount_usd": "0.123456789",
        "results": [
            {"index": 0, "event_id": given["event_id"], "status": "recorded", "amount_usd": "0.123456789"},
        ],
        "errors": [],
    }
    entry = LedgerEntry.objects.get()
    assert (entry.tenant_id, entry.kind, entry.amount) == (acme.pk, "llm", 123_456_789)
    assert entry.at == dt.datetime.fromisoformat(given["time"])
    assert (entry.agent, entry.model, entry.run, entry.external_id) == (
        "crawler",
        "elsewhere:big",
        "crew-7",
        given["event_id"],
    )
    assert entry.subject_id == DataSubject.objects.get(tenant_id=acme.pk, reference="user-8842").pk
    assert entry.swarm_id == run_id(acme.pk, "crew-7")
    assert (entry.input_per_mtok, entry.unsettled, entry.note) == (None, False, "")
    kept = ExternalEvent.objects.get()
    assert (kept.entry_id, kept.amount, kept.overage, kept.booked_at) == (entry.pk, entry.amount, 0, entry.at)
    audit = AuditEntry.objects.get(action="cost:record")
    assert audit.details == {"act": "events", "recorded": 1, "amount_usd": "0.123456789"}
    assert consistency.charges_without_task() == []


def test_tokens_are_priced_at_the_events_own_time(send: Caller, acme: Tenant, small: Price) -> None:  # P9
    Price.objects.create(
        provider="simulated",
        model="small",
        tenant=acme,
        input_per_mtok=NANO,
        output_per_mtok=2 * NANO,
        effective_from=timezone.now() - dt.timedelta(days=2),
    )
    rows = [tokens(time=ago(days=3)), tokens(time=ago(hours=1), cache_read_tokens=400, cache_write_tokens=600)]
    answer = send.post(PATH, rows)
    assert answer.status_code == 201
    old, new = LedgerEntry.objects.order_by("id")
    assert old.amount == (1000 * 15 + 100 * 60) * CENTS // 1_000_000
    assert (old.input_per_mtok, old.output_per_mtok) == (15 * CENTS, 60 * CENTS)
    assert new.amount == (1000 + 200) * NANO // 1_000_000
    assert (new.input_tokens, new.output_tokens, new.cache_read_tokens, new.cache_write_tokens) == (1000, 100, 400, 600)


def test_a_published_price_is_used_too(send: Caller, acme: Tenant) -> None:
    answer = send.post(PATH, tokens(model="openai:gpt-4o-mini", input_tokens=1_000_000, output_tokens=1_000_000))
    assert answer.json()["amount_usd"] == "0.75"


def test_money_with_tokens_is_charged_as_given_and_keeps_the_tokens(send: Caller, acme: Tenant) -> None:
    send.post(PATH, tokens(amount_usd="0.5", model="nobody:knows"))
    entry = LedgerEntry.objects.get()
    assert (entry.amount, entry.input_tokens, entry.input_per_mtok) == (NANO // 2, 1000, None)


def test_infrastructure_and_storage_are_money(send: Caller, acme: Tenant) -> None:
    answer = send.post(PATH, [event(kind="infrastructure"), event(kind="storage"), tokens(kind="storage")])
    assert answer.status_code == 207
    assert problems(answer) == [(2, "invalid", "kind")]
    assert set(LedgerEntry.objects.values_list("kind", flat=True)) == {"infrastructure", "storage"}


# -- once --------------------------------------------------------------------------------------------------------------


def test_the_same_again_is_a_duplicate_and_costs_nothing(send: Caller, acme: Tenant) -> None:
    watching = budget(acme, NANO)
    given = [event(end_user="user-1"), event(run="crew")]
    send.post(PATH, given)
    # The same moment in another zone is the same time.
    moved = dt.datetime.fromisoformat(given[0]["time"]).astimezone(dt.timezone(dt.timedelta(hours=5)))
    again = send.post(PATH, [{**given[0], "time": moved.isoformat()}, given[1]])
    assert again.status_code == 200
    body = again.json()
    assert (body["recorded"], body["duplicates"], body["failed"], body["amount_usd"]) == (0, 2, 0, "0.00")
    assert [row["amount_usd"] for row in body["results"]] == ["0.10", "0.10"]
    assert LedgerEntry.objects.count() == 2
    assert period(watching).spent == 20 * CENTS


@pytest.mark.parametrize(
    "change",
    [
        {"amount_usd": "0.11"},
        {"time": "2026-11-01T00:00:00Z"},
        {"agent": "other"},
        {"model": "x:y"},
        {"run": "other"},
        {"kind": "storage"},
        {"end_user": "user-2"},
        {"end_user": None},
        {"input_tokens": 5},
    ],
)
def test_the_same_id_with_other_content_is_a_conflict(change: dict[str, Any], send: Caller, acme: Tenant) -> None:
    given = event(end_user="user-1")
    send.post(PATH, given)
    other = {key: value for key, value in {**given, **change}.items() if value is not None}
    alone = send.post(PATH, other)
    assert alone.status_code == 400
    assert problems(alone) == [(0, "conflict", "event_id")]
    with_others = send.post(PATH, [event(), other])
    assert with_others.status_code == 207
    assert problems(with_others) == [(1, "conflict", "event_id")]
    assert LedgerEntry.objects.count() == 2


def test_ids_repeated_inside_one_batch(send: Caller, acme: Tenant, small: Price) -> None:
    first = event(event_id="a")
    wrong = tokens(event_id="b", model="nobody:knows")
    right = tokens(event_id="b")
    answer = send.post(PATH, [first, first, {**first, "amount_usd": "7"}, wrong, right])
    assert answer.status_code == 207
    assert [row["status"] for row in answer.json()["results"]] == [
        "recorded",
        "duplicate",
        "failed",
        "failed",
        "recorded",
    ]
    assert problems(answer) == [(2, "conflict", "event_id"), (3, "unknown_model", "model")]
    assert LedgerEntry.objects.count() == 2


def test_two_tenants_may_use_the_same_id(send: Caller, acme: Tenant, rival: Tenant, developer: User) -> None:
    Membership.objects.create(user=developer, tenant=rival, role=Role.DEVELOPER)
    given = event(event_id="same")
    assert send.post(PATH, given).status_code == 201
    assert Caller(developer, rival).post(PATH, {**given, "tenant": "rival"}).status_code == 201
    assert ExternalEvent.objects.count() == 2


def test_an_idempotency_key_replays_the_answer(send: Caller, acme: Tenant) -> None:
    given = [event(), event(amount_usd="x")]
    first = send.post(PATH, given, Idempotency_Key="k")
    again = send.post(PATH, given, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (207, 207)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert send.post(PATH, event(), Idempotency_Key="k").status_code == 422
    wrong = send.post(PATH, event(amount_usd="x"), Idempotency_Key="other")
    assert wrong.status_code == 400
    assert send.post(PATH, event(), Idempotency_Key="other").status_code == 201


# -- partly bad --------------------------------------------------------------------------------------------------------


def test_wrong_rows_are_named_and_the_others_kept(send: Caller, acme: Tenant, rival: Tenant, small: Price) -> None:
    rows: list[Any] = [
        event(),
        tokens(model="nobody:knows"),
        event(colour="red"),
        "no object",
        event(amount_usd="-1"),
        event(tenant="rival"),
        event(event_id=None),
        event(time="yesterday"),
        tokens(),
    ]
    answer = send.post(PATH, rows)
    assert answer.status_code == 207
    body = answer.json()
    assert (body["recorded"], body["failed"]) == (2, 7)
    assert problems(answer) == [
        (1, "unknown_model", "model"),
        (2, "unknown_key", "colour"),
        (3, "invalid", None),
        (4, "negative", "amount_usd"),
        (5, "unknown", "tenant"),
        (6, "required", "event_id"),
        (7, "invalid", "time"),
    ]
    by_index = {error["index"]: error for error in body["errors"]}
    assert '"nobody:knows"' in by_index[1]["detail"]
    assert by_index[2]["event_id"] == rows[2]["event_id"]
    assert by_index[6]["event_id"] is None
    assert LedgerEntry.objects.count() == 2


def test_a_row_tells_of_all_its_errors(send: Caller, acme: Tenant) -> None:
    answer = send.post(PATH, {"amount_usd": "1e40", "agent": 5, "x": 1})
    assert answer.status_code == 400
    assert {code for _, code, _ in problems(answer)} == {"required", "too_large", "invalid", "unknown_key"}
    assert attrs(answer) == {"event_id", "tenant", "time", "amount_usd", "agent", "x"}


def test_failed_rows_leave_no_trace_of_the_person(send: Caller, acme: Tenant) -> None:
    send.post(PATH, [event(event_id="a"), tokens(end_user="user-1", model="nobody:knows")])
    send.post(PATH, event(event_id="a", end_user="user-2"))
    assert not DataSubject.objects.exists()


# -- times -------------------------------------------------------------------------------------------------------------


def test_events_lie_at_most_five_minutes_ahead(send: Caller, acme: Tenant) -> None:
    answer = send.post(PATH, [event(time=ago(minutes=-4)), event(time=ago(minutes=-6))])
    assert problems(answer) == [(1, "in_future", "time")]


def test_an_event_counts_in_the_period_of_its_own_time(send: Caller, acme: Tenant) -> None:
    daily = budget(acme, NANO, period="daily")
    # Three in the morning UTC is still the day before in New York.
    send.post(PATH, [event(time="2026-11-10T03:00:00Z"), event(time="2026-11-10T12:00:00Z")])
    spent = dict(BudgetPeriod.objects.filter(budget=daily).values_list("key", "spent"))
    assert spent == {"2026-11-09": 10 * CENTS, "2026-11-10": 10 * CENTS}


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_every_budget_that_watches_is_charged(send: Caller, acme: Tenant) -> None:
    all_of_it = budget(acme, NANO, "all")
    budget(acme, NANO, "users", scope="end_user", period="daily")
    budget(acme, NANO, "crawler", scope="agent", target="crawler")
    runs = budget(acme, NANO, "runs", period="run")
    budget(acme, NANO, "writer", scope="agent", target="writer")
    day = "2026-11-10T12:00:00Z"
    send.post(
        PATH, [event(end_user="u1", run="r1", time=day), event(end_user="u2", run="r1", time="2026-11-10T09:00:00Z")]
    )
    spent = dict(BudgetPeriod.objects.values_list("budget__name", "spent").exclude(budget__name="users"))
    assert spent == {"all": 20 * CENTS, "crawler": 20 * CENTS, "runs": 20 * CENTS}
    assert BudgetPeriod.objects.filter(budget__name="users").count() == 2
    run = BudgetPeriod.objects.get(budget=runs)
    assert run.key == str(run_id(acme.pk, "r1"))
    # A cost of before the first one that was reported moves the run's begin back.
    send.post(PATH, event(run="r1", time="2026-11-05T00:00:00Z"))
    run.refresh_from_db()
    assert run.starts_at == dt.datetime(2026, 11, 5, tzinfo=dt.UTC)
    assert consistency.spent_differs_from_ledger() == []
    assert period(all_of_it).spent == 30 * CENTS
    verify_money_is_whole()


def test_what_a_hard_budget_has_no_room_for_is_overage_and_refuses_the_next_call(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, 25 * CENTS, "hard")
    soft = budget(acme, 5 * CENTS, "soft", enforcement="soft")
    now = timezone.now()
    (held,) = reserve([call(acme, 10 * CENTS, expires_at=now + dt.timedelta(minutes=1))], now=now)
    assert held.granted
    rows = [event(), event(), event()]
    assert send.post(PATH, rows).status_code == 201
    of_hard = period(hard)
    assert (of_hard.spent, of_hard.reserved, of_hard.overage) == (15 * CENTS, 10 * CENTS, 15 * CENTS)
    assert (period(soft).spent, period(soft).overage) == (30 * CENTS, 0)
    assert list(ExternalEvent.objects.order_by("id").values_list("overage", flat=True)) == [0, 5 * CENTS, 10 * CENTS]
    told = Event.objects.get(kind="budget.overage")
    assert (told.data["budget"], told.data["excess"], told.data["external_events"]) == ("hard", 15 * CENTS, 3)
    alerts = Event.objects.filter(kind="budget.alert", data__level=100).values_list("data__budget", flat=True)
    assert sorted(alerts) == ["hard", "soft"]
    (refused,) = reserve([call(acme, 1)], now=now)
    assert not refused.granted
    verify_money_is_whole()


def test_amounts_beyond_what_can_be_counted_are_refused(send: Caller, acme: Tenant) -> None:
    full = budget(acme, NANO, enforcement="soft")
    send.post(PATH, event())
    BudgetPeriod.objects.filter(budget=full).update(spent=2**63 - 1 - CENTS)
    answer = send.post(PATH, event())
    assert answer.status_code == 400
    assert problems(answer) == [(0, "too_large", "amount_usd")]
    assert ExternalEvent.objects.count() == LedgerEntry.objects.count() == 1


# -- who ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["viewer", "finance"])
def test_only_those_who_run_agents_record_costs(who: str, request: pytest.FixtureRequest, acme: Tenant) -> None:
    answer = Caller(request.getfixturevalue(who)).post(PATH, [event(), event()])
    assert is_refusal(answer, 403)
    assert "cost:record" in answer.json()["errors"][0]["detail"]
    assert not ExternalEvent.objects.exists()


@pytest.mark.parametrize("who", ["owner", "operator", "developer"])
def test_those_who_run_agents_may(who: str, request: pytest.FixtureRequest, acme: Tenant) -> None:
    assert Caller(request.getfixturevalue(who)).post(PATH, event()).status_code == 201


def test_the_outsider_records_nothing_and_learns_nothing(outsider: User, acme: Tenant) -> None:  # A5
    hidden = Caller(outsider).post(PATH, event(event_id="x", time="2026-11-10T12:00:00Z"))
    missing = Caller(outsider).post(PATH, event(event_id="x", time="2026-11-10T12:00:00Z", tenant="none"))
    assert (hidden.status_code, problems(hidden)) == (400, [(0, "unknown", "tenant")])
    assert hidden.content.replace(b"acme", b"none") == missing.content
    assert not ExternalEvent.objects.exists()
    assert Caller(None).post(PATH, event()).status_code == 401


def test_queries_do_not_grow_with_the_rows(
    send: Caller, acme: Tenant, small: Price, django_assert_max_num_queries: Any
) -> None:
    budget(acme, 1000 * NANO, "all")
    budget(acme, 1000 * NANO, "users", scope="end_user", period="daily")
    rows = [tokens(end_user=f"user-{n % 40}", run=f"run-{n % 9}", time=ago(hours=n % 50)) for n in range(500)]
    with django_assert_max_num_queries(34):
        answer = send.post(PATH, rows)
    assert answer.json()["recorded"] == 500
    with django_assert_max_num_queries(12):
        assert send.post(PATH, rows).json()["duplicates"] == 500


def test_an_id_is_unique_in_the_database(acme: Tenant) -> None:
    now = timezone.now()
    fields = {
        "tenant_id": acme.pk,
        "event_id": "a",
        "content": uuid.uuid4(),
        "at": now,
        "booked_at": now,
        "amount": 1,
    }
    ExternalEvent.objects.create(**fields)
    with pytest.raises(IntegrityError):
        ExternalEvent.objects.create(**fields)


def test_a_run_elsewhere_has_its_name_where_swarms_have_theirs(send: Caller, acme: Tenant) -> None:
    send.post(PATH, event(run="crew-7"))
    run = str(run_id(acme.pk, "crew-7"))
    assert labels(By.SWARM, [run, str(uuid.uuid4())]) == {run: "crew-7 (elsewhere)"}
    assert labels(By.SWARM, []) == {}
