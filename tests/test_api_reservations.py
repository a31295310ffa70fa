"""Hard caps for agents elsewhere over the API: reserve, extend, settle, release; by whom, and what is left of it."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import BudgetPeriod, ExternalReservation, LedgerEntry, Price, Reservation, run_id
from apps.costs.reserving import charge_expired, reserve
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import NANO
from tests.api_client import Caller, attrs, is_refusal
from tests.costs import budget, call, period, verify_money_is_whole

pytestmark = pytest.mark.django_db
CENTS = NANO // 100
PATH = "/costs/reservations/"
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def send(developer: User) -> Caller:
    return Caller(developer)


@pytest.fixture
def small(acme: Tenant) -> Price:
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return Price.objects.create(
        provider="simulated", model="small", input_per_mtok=NANO, output_per_mtok=4 * NANO, effective_from=since
    )


def made(send: Caller, amount: str = "0.10", **changes: Any) -> str:
    answer = send.post(PATH, {"tenant": "acme", "amount_usd": amount, **changes})
    assert answer.status_code == 201, answer.content
    return f"{PATH}{answer.json()['id']}/"


# -- reserving ---------------------------------------------------------------------------------------------------------


def test_money_is_held_in_every_budget_that_watches(send: Caller, acme: Tenant) -> None:  # C9
    budget(acme, NANO, "all")
    budget(acme, NANO, "users", scope="end_user")
    budget(acme, NANO, "runs", period="run")
    budget(acme, NANO, "crawler", scope="agent", target="crawler")
    body = {"tenant": "acme", "amount_usd": "0.25", "agent": "crawler", "end_user": "user-1", "run": "crew-7"}
    before = timezone.now()
    answer = send.post(PATH, {**body, "lease_s": 120})
    assert answer.status_code == 201
    got = answer.json()
    assert answer.headers["Location"] == f"/api/v1{PATH}{got['id']}/"
    assert (got["status"], got["amount_usd"], got["charged_usd"]) == ("held", "0.25", None)
    assert (got["tenant"], got["agent"], got["run"]) == ("acme", "crawler", "crew-7")
    assert got["run_id"] == str(run_id(acme.pk, "crew-7"))
    left = dt.datetime.fromisoformat(got["expires_at"]) - before
    assert dt.timedelta(seconds=119) < left < dt.timedelta(seconds=150)
    held = Reservation.objects.get()
    assert (held.run, held.swarm_id, held.amount) == ("crew-7", run_id(acme.pk, "crew-7"), 25 * CENTS)
    assert held.subject_id == DataSubject.objects.get(reference="user-1").pk
    assert list(BudgetPeriod.objects.values_list("reserved", flat=True)) == [25 * CENTS] * 4
    assert send.get(answer.headers["Location"]).json() == got
    assert AuditEntry.objects.get(action="cost:record").details == {"act": "reserve", "amount_usd": "0.25"}


@pytest.mark.parametrize("limit", [{"input_bytes": 1000}, {"max_input_tokens": 1000}])
def test_the_highest_cost_of_a_call_is_reserved(limit: dict[str, int], send: Caller, small: Price) -> None:
    answer = send.post(PATH, {"tenant": "acme", "model": "simulated:small", "max_output_tokens": 500, **limit})
    assert answer.json()["amount_usd"] == "0.003"


def test_a_used_up_budget_refuses_and_says_so(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, 25 * CENTS, "Each run", period="run")
    send.post(f"{made(send, '0.20', run='r')}settle/", {"amount_usd": "0.20"})
    answer = send.post(PATH, {"tenant": "acme", "amount_usd": "0.06", "run": "r"}, Idempotency_Key="k")
    assert answer.status_code == 409
    body = answer.json()
    assert body["errors"] == [
        {
            "code": "budget_exhausted",
            "detail": 'Budget "Each run" has $0.05 left of $0.25; this call can cost up to $0.06.',
            "attr": None,
        }
    ]
    run = str(run_id(acme.pk, "r"))
    assert body["refused_by"] == {
        "budget_id": str(hard.pk),
        "budget": "Each run",
        "period": run,
        "holder": "",
        "limit_usd": "0.25",
        "left_usd": "0.05",
    }
    # What is announced of the budget stays, although the key is free again.
    assert period(hard).exhausted_at
    assert Event.objects.filter(kind="budget.exhausted").count() == 1
    assert send.post(PATH, {"tenant": "acme", "amount_usd": "0.05", "run": "r"}, Idempotency_Key="k").status_code == 201
    assert ExternalReservation.objects.count() == 2


def test_money_that_others_hold_may_come_back(send: Caller, acme: Tenant) -> None:
    budget(acme, 25 * CENTS)
    other = made(send, "0.20")
    answer = send.post(PATH, {"tenant": "acme", "amount_usd": "0.06"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (409, "budget_busy")
    assert int(answer.headers["Retry-After"]) > 0
    assert not Event.objects.filter(kind="budget.exhausted").exists()
    send.post(f"{other}release/")
    made(send, "0.06")


def test_an_idempotency_key_reserves_once(send: Caller, acme: Tenant) -> None:
    body = {"tenant": "acme", "amount_usd": "0.06"}
    first, again = (send.post(PATH, body, Idempotency_Key="k") for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert Reservation.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "blamed"),
    [
        ({}, {"amount_usd"}),
        ({"amount_usd": "-1"}, {"amount_usd"}),
        ({"amount_usd": "1000001"}, {"amount_usd"}),
        ({"amount_usd": "0.0000000001"}, {"amount_usd"}),
        ({"amount_usd": "1", "max_output_tokens": 5}, {"max_output_tokens"}),
        ({"model": "simulated:small"}, {"max_output_tokens", "input_bytes"}),
        ({"input_bytes": 4}, {"model", "max_output_tokens"}),
        (
            {"model": "simulated:small", "input_bytes": 4, "max_input_tokens": 4, "max_output_tokens": 4},
            {"input_bytes"},
        ),
        ({"model": "nobody:knows", "input_bytes": 4, "max_output_tokens": 4}, {"model"}),
        ({"model": "simulated:small", "input_bytes": 10**12, "max_output_tokens": 10**12}, {"max_output_tokens"}),
        ({"model": "simulated:small", "input_bytes": 10**13, "max_output_tokens": 4}, {"input_bytes"}),
        ({"amount_usd": "1", "lease_s": 0}, {"lease_s"}),
        ({"amount_usd": "1", "lease_s": 3601}, {"lease_s"}),
        ({"amount_usd": "1", "run": "x" * 101}, {"run"}),
        ({"amount_usd": "1", "colour": "red"}, {"colour"}),
        ({"amount_usd": "1", "tenant": "rival"}, {"tenant"}),
        ({"amount_usd": "1", "agent": ["a"]}, {"agent"}),
    ],
)
def test_wrong_bodies_reserve_nothing(
    body: dict[str, Any], blamed: set[str], send: Caller, rival: Tenant, small: Price
) -> None:
    answer = send.post(PATH, {"tenant": "acme", **body})
    assert is_refusal(answer, 400), answer.content
    assert attrs(answer) == blamed
    assert not Reservation.objects.exists()
    assert not ExternalReservation.objects.exists()


# -- settling ----------------------------------------------------------------------------------------------------------


def test_settling_charges_what_it_cost_and_gives_the_rest_back(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, NANO)
    path = made(send, "0.10", run="crew-7", agent="crawler", end_user="user-1")
    answer = send.post(f"{path}settle/", {"amount_usd": "0.04"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["charged_usd"], body["expires_at"]) == ("settled", "0.04", None)
    assert send.get(path).json() == body
    entry = LedgerEntry.objects.get()
    assert (entry.amount, entry.run, entry.agent, entry.kind) == (4 * CENTS, "crew-7", "crawler", "llm")
    assert entry.subject_id
    assert (period(hard).spent, period(hard).reserved) == (4 * CENTS, 0)
    verify_money_is_whole()


def test_tokens_are_priced_as_when_they_were_reserved(send: Caller, small: Price) -> None:
    body = {"tenant": "acme", "model": "simulated:small", "input_bytes": 1000, "max_output_tokens": 500}
    path = f"{PATH}{send.post(PATH, body).json()['id']}/"
    Price.objects.create(provider="simulated", model="small", input_per_mtok=9 * NANO, output_per_mtok=9 * NANO)
    answer = send.post(f"{path}settle/", {"input_tokens": 300, "output_tokens": 50, "cache_read_tokens": 100})
    assert answer.json()["charged_usd"] == "0.0005"
    entry = LedgerEntry.objects.get()
    assert (entry.input_tokens, entry.output_tokens, entry.cache_read_tokens) == (300, 50, 100)
    assert (entry.input_per_mtok, entry.model) == (NANO, "simulated:small")


def test_what_was_billed_beyond_it_is_charged_as_overage(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, 10 * CENTS)
    path = made(send, "0.10")
    assert send.post(f"{path}settle/", {"amount_usd": "0.15"}).json()["charged_usd"] == "0.15"
    assert (period(hard).spent, period(hard).overage) == (10 * CENTS, 5 * CENTS)
    assert Event.objects.filter(kind="budget.overage").count() == 1


def test_settling_again_changes_nothing_and_otherwise_is_refused(send: Caller, acme: Tenant) -> None:
    path = made(send)
    first = send.post(f"{path}settle/", {"amount_usd": "0.04"}).json()
    again = send.post(f"{path}settle/", {"amount_usd": "0.04"})
    assert (again.status_code, again.json()) == (200, first)
    for act, body in (("settle", {"amount_usd": "0.05"}), ("release", {}), ("extend", {})):
        answer = send.post(f"{path}{act}/", body)
        assert is_refusal(answer, 409)
        assert answer.json()["errors"][0]["code"] == "already_settled"
    assert LedgerEntry.objects.count() == 1
    acts = AuditEntry.objects.filter(action="cost:record").order_by("pk")
    assert [entry.details["act"] for entry in acts] == ["reserve", "settle"]


def test_a_lease_that_ends_charges_all_of_it_and_is_corrected_once(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, NANO)
    path = made(send, "0.10", run="crew-7", lease_s=60)
    assert charge_expired(now=timezone.now() + HOUR) == 1
    body = send.get(path).json()
    assert (body["status"], body["charged_usd"], body["expires_at"]) == ("unsettled", "0.10", None)
    for act in ("extend", "release"):
        answer = send.post(f"{path}{act}/", {})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (409, "lease_ended")
    late = send.post(f"{path}settle/", {"amount_usd": "0.03"})
    assert (late.status_code, late.json()["status"], late.json()["charged_usd"]) == (200, "settled", "0.03")
    assert send.post(f"{path}settle/", {"amount_usd": "0.03"}).status_code == 200
    assert send.post(f"{path}settle/", {"amount_usd": "0.02"}).status_code == 409
    whole, correction = LedgerEntry.objects.order_by("id")
    assert (whole.unsettled, whole.run, correction.run) == (True, "crew-7", "crew-7")
    assert (correction.amount, correction.corrects, correction.kind) == (-7 * CENTS, whole.pk, "adjustment")
    assert period(hard).spent == 3 * CENTS
    verify_money_is_whole()


def test_a_lease_can_be_extended(send: Caller, acme: Tenant) -> None:
    path = made(send, lease_s=5)
    answer = send.post(f"{path}extend/", {"lease_s": 3600})
    assert answer.status_code == 200
    assert dt.datetime.fromisoformat(answer.json()["expires_at"]) > timezone.now() + HOUR / 2
    assert charge_expired(now=timezone.now() + HOUR / 2) == 0
    shorter = send.post(f"{path}extend/", {"lease_s": 1}).json()
    assert shorter["expires_at"] == answer.json()["expires_at"]
    assert is_refusal(send.post(f"{path}extend/", {"lease_s": 3601}), 400)


def test_releasing_gives_all_of_it_back(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, NANO)
    path = made(send)
    for _ in range(2):
        answer = send.post(f"{path}release/")
        assert (answer.status_code, answer.json()["status"], answer.json()["charged_usd"]) == (200, "released", "0.00")
    assert (period(hard).spent, period(hard).reserved) == (0, 0)
    late = send.post(f"{path}settle/", {"amount_usd": "0.01"})
    assert (late.status_code, late.json()["errors"][0]["code"]) == (409, "already_released")
    assert not LedgerEntry.objects.exists()


@pytest.mark.parametrize(
    ("body", "blamed"),
    [
        ({}, "amount_usd"),
        ({"amount_usd": "NaN"}, "amount_usd"),
        ({"amount_usd": "1000001"}, "amount_usd"),
        ({"input_tokens": 4}, "amount_usd"),
        ({"input_tokens": -4}, "input_tokens"),
        ({"input_tokens": 4, "cache_read_tokens": 5}, "cache_read_tokens"),
        ({"colour": 1, "amount_usd": 1}, "colour"),
    ],
)
def test_wrong_settlements_settle_nothing(body: Any, blamed: str, send: Caller, acme: Tenant) -> None:
    path = made(send)
    answer = send.post(f"{path}settle/", body)
    assert is_refusal(answer, 400)
    assert attrs(answer) == {blamed}
    assert send.get(path).json()["status"] == "held"


# -- who ---------------------------------------------------------------------------------------------------------------


def test_calls_of_swarms_here_cannot_be_touched_from_outside(send: Caller, acme: Tenant) -> None:
    own = call(acme, 5 * CENTS, expires_at=timezone.now() + HOUR)
    assert reserve([own], now=timezone.now())[0].granted
    path = f"{PATH}{own.id}/"
    assert is_refusal(send.get(path), 404)
    for act, body in (("settle", {"amount_usd": 0}), ("release", {}), ("extend", {})):
        assert is_refusal(send.post(f"{path}{act}/", body), 404)
    assert Reservation.objects.filter(pk=own.id).exists()


@pytest.mark.parametrize("who", ["viewer", "finance"])
def test_those_who_only_read_costs_see_and_do_nothing(
    who: str, request: pytest.FixtureRequest, send: Caller, acme: Tenant
) -> None:
    path = made(send)
    caller = Caller(request.getfixturevalue(who))
    assert caller.get(path).status_code == 200
    for act, body in (("settle", {"amount_usd": 0}), ("release", {}), ("extend", {})):
        answer = caller.post(f"{path}{act}/", body)
        assert is_refusal(answer, 403)
        assert "cost:record" in answer.json()["errors"][0]["detail"]
    assert is_refusal(caller.post(PATH, {"tenant": "acme", "amount_usd": "0.01"}), 403)
    assert Reservation.objects.get().pk == UUID(path.split("/")[-2])


def test_the_outsider_gets_nothing(outsider: User, send: Caller, acme: Tenant, rival: Tenant) -> None:  # A5
    path = made(send)
    caller = Caller(outsider)
    for at in (path, f"{PATH}{uuid4()}/"):
        assert is_refusal(caller.get(at), 404)
        for act, body in (("settle", {"amount_usd": 0}), ("release", {}), ("extend", {}), ("settle", {"x": 1})):
            assert is_refusal(caller.post(f"{at}{act}/", body), 404)
    hidden, missing = (caller.post(PATH, {"tenant": name, "amount_usd": "0.01"}) for name in ("acme", "none"))
    assert hidden.content.replace(b"acme", b"none") == missing.content
    assert is_refusal(Caller(None).post(PATH, {"tenant": "acme", "amount_usd": "0.01"}), 401)
    assert Reservation.objects.count() == 1


def test_a_token_of_another_tenant_gets_nothing(developer: User, rival: Tenant, send: Caller, acme: Tenant) -> None:
    path = made(send)
    Membership.objects.create(user=developer, tenant=rival, role=Role.DEVELOPER)
    assert is_refusal(Caller(developer, rival).post(f"{path}release/"), 404)


def test_each_act_takes_few_queries(
    send: Caller, acme: Tenant, small: Price, django_assert_max_num_queries: Any
) -> None:
    for n in range(5):
        budget(acme, NANO, f"b{n}")
    body = {"tenant": "acme", "model": "simulated:small", "input_bytes": 1000, "max_output_tokens": 50, "run": "r"}
    send.post(PATH, body)
    with django_assert_max_num_queries(18):
        made_now = send.post(PATH, {**body, "end_user": "u"})
    path = f"{PATH}{made_now.json()['id']}/"
    for act, given in (("extend", {}), ("settle", {"input_tokens": 3})):
        with django_assert_max_num_queries(20):
            assert send.post(f"{path}{act}/", given).status_code == 200
    with django_assert_max_num_queries(6):
        send.get(path)


def test_more_money_than_can_be_counted_is_refused(send: Caller, acme: Tenant) -> None:
    hard = budget(acme, NANO)
    path = made(send)
    BudgetPeriod.objects.filter(budget=hard).update(overage=2**63 - 1 - NANO)
    answer = send.post(f"{path}settle/", {"amount_usd": "5"})
    assert is_refusal(answer, 409)
    assert answer.json()["errors"][0]["code"] == "too_large"
    assert send.get(path).json()["status"] == "held"
