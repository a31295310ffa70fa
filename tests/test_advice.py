"""Advice: found in what was spent, on enough data only; acted on with one click, or dismissed with a reason."""

from __future__ import annotations

import datetime as dt
import html
import re
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.audit.models import AuditEntry
from apps.costs import advising, tasks
from apps.costs.accrual import accrue
from apps.costs.advising import THRESHOLDS, CannotDecide, Finding, act_on, dismiss, refresh
from apps.costs.entries import write
from apps.costs.models import Accruing, Advice, AdviceKind, LedgerEntry, Rate
from apps.execution.models import Attempt
from apps.providers.models import Provider
from apps.swarms.actions.submit import submit
from apps.swarms.models import AgentOverride, Holding, ResourcePool, Swarm
from apps.swarms.spec_errors import SpecInvalid
from apps.tenants.access import AccessDenied, principal_of
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests import desk
from tests.api_client import Caller
from tests.swarms import AgentOf, StepOf, make_swarm
from tests.test_admin_money import staff
from tests.test_whatif import LARGE, SMALL, call, prices

pytestmark = pytest.mark.django_db
__all__ = ["prices"]

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
H = dt.timedelta(hours=1)
PAGE = "/admin/costs/advice/"
FEW = replace(THRESHOLDS, least_saving=1)


def short_calls(tenant: Tenant, count: int = 240, days: int = 10, model: str = LARGE, **fields: Any) -> None:
    """Calls of 1,000 tokens in and 10 out, spread over some days until now: 10,400,000 nano-dollars each at LARGE."""
    step = days * DAY / count
    amount = 10_400_000 if model == LARGE else 1_040_000
    write([call(tenant, amount, model=model, at=NOW - n * step - H, **fields) for n in range(count)], now=NOW)


def the(kind: AdviceKind) -> Advice:
    return Advice.objects.get(kind=kind)


# -- dear models -------------------------------------------------------------------------------------------------------


def test_simple_work_on_a_dear_model_is_found_with_its_exact_saving(
    acme: Tenant, rival: Tenant, prices: None, finance: User
) -> None:  # C8
    short_calls(acme)
    short_calls(rival, count=50)
    assert refresh(now=NOW, thresholds=THRESHOLDS) == 1
    advice = the(AdviceKind.DEAR_MODEL)
    assert advice.tenant == acme
    assert advice.saving == 240 * (10_400_000 - 1_040_000)  # as the what-if has it
    assert advice.facts == {"agent": "writer", "model": LARGE, "new_model": SMALL}
    assert advice.entries == LedgerEntry.objects.filter(tenant_id=acme.pk, **advice.query).count() == 240
    samples = LedgerEntry.objects.filter(pk__in=advice.sample_ids)
    assert {(row.tenant_id, row.agent, row.model) for row in samples} == {(acme.pk, "writer", LARGE)}


@pytest.mark.parametrize(
    "calls",
    [
        {"count": 199},  # too few
        {"days": 2},  # all in too short a time
        {"output_tokens": 201},  # no short answers
        {"input_tokens": 2001},
        {"model": SMALL},  # nothing is cheaper
        {"agent": ""},
    ],
)
def test_nothing_is_advised_on_too_little_or_on_real_work(acme: Tenant, prices: None, calls: dict[str, Any]) -> None:
    short_calls(acme, **calls)
    assert refresh(now=NOW) == 0


def test_a_saving_below_a_dollar_is_not_worth_a_word_and_a_small_gap_neither(acme: Tenant, prices: None) -> None:
    short_calls(acme, count=100)
    assert refresh(now=NOW, thresholds=replace(THRESHOLDS, least_calls=10)) == 0
    assert refresh(now=NOW, thresholds=replace(FEW, least_calls=10)) == 1


# -- idle agents -------------------------------------------------------------------------------------------------------


def idle_swarms(tenant: Tenant, count: int = 5, replicas: int = 10, peak: int = 2) -> None:
    """Finished swarms of ``replicas`` readers and 2 writers, held for a day; ``peak`` readers worked at once."""
    Rate.objects.create(kind=Accruing.INFRASTRUCTURE, price=NANO // 10, effective_from=NOW - 30 * DAY)
    for n in range(count):
        start = NOW - (count + 1 - n) * DAY
        swarm = make_swarm(
            tenant,
            [StepOf("read", items=4, agent="reader"), StepOf("write", agent="writer")],
            {"reader": AgentOf(replicas), "writer": AgentOf(2)},
            now=start,
        )
        for task in swarm.tasks.all():
            began = start + (task.index // peak) * H
            Attempt.objects.create(
                id=uuid4(), task=task, number=1, started_at=began, finished_at=began + H, outcome="succeeded"
            )
        swarm.tasks.update(status="succeeded", lease_token=None)
        with transaction.atomic():
            ResourcePool.objects.give_back([swarm], now=start + DAY)
        Swarm.objects.filter(pk=swarm.pk).update(status="succeeded")
    accrue(now=NOW + H)


def test_replicas_that_never_worked_together_are_advised_away(acme: Tenant) -> None:  # C8
    idle_swarms(acme)
    assert refresh(now=NOW) == 2
    reader = Advice.objects.get(kind=AdviceKind.IDLE_AGENTS, key="reader")
    assert reader.facts == {"agent": "reader", "replicas": 10, "new_replicas": 2}
    # Eight of twelve agents, for a day each, at ten cents an hour.
    assert reader.saving == 5 * 8 * 24 * NANO // 10
    assert reader.entries == 5 * 24
    writer = Advice.objects.get(kind=AdviceKind.IDLE_AGENTS, key="writer")
    assert (writer.saving, writer.facts["new_replicas"]) == (5 * 24 * NANO // 10, 1)


def test_few_swarms_are_left_alone(acme: Tenant) -> None:
    idle_swarms(acme, count=4)
    assert refresh(now=NOW, thresholds=FEW) == 0


def test_replicas_that_all_worked_are_left_alone(acme: Tenant) -> None:
    idle_swarms(acme, replicas=4, peak=4)
    assert set(Advice.objects.values_list("key", flat=True)) == set()
    refresh(now=NOW, thresholds=FEW)
    assert set(Advice.objects.values_list("key", flat=True)) == {"writer"}


# -- repeated calls ----------------------------------------------------------------------------------------------------


def test_tasks_that_were_solved_before_are_found(acme: Tenant) -> None:  # C8
    swarm = make_swarm(acme, [StepOf("read", items=40)])
    for n, task in enumerate(swarm.tasks.all()):
        at = NOW - 10 * DAY + n * 4 * H
        attempt = Attempt.objects.create(
            id=uuid4(),
            task=task,
            number=1,
            started_at=at,
            finished_at=at,
            outcome="succeeded",
            cost=NANO,
            context={"prompt": f"question {n % 2}" if n < 30 else f"other {n}"},
        )
        write([call(acme, NANO, at=at, swarm_id=swarm.pk, attempt_id=attempt.pk, agent="worker")], now=NOW)
    assert refresh(now=NOW) == 1
    advice = the(AdviceKind.REPEATED_CALLS)
    assert (advice.saving, advice.facts["repeats"], advice.entries) == (28 * NANO, 28, 30)
    assert "2 prompts more than once, one of them 15 times" in advice.text
    assert LedgerEntry.objects.filter(pk__in=advice.sample_ids, swarm_id=swarm.pk).count() == 5
    assert advising.act_of(advice) is None
    Attempt.objects.filter(context__prompt="question 0").update(outcome="failed")
    assert refresh(now=NOW) == 0  # 14 repeats are too few, and what is not found any more goes


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_a_pool_that_was_never_near_its_size(acme: Tenant, platform_admin: User, finance: User) -> None:  # C8
    ResourcePool.objects.update(agents_total=100)
    for days, agents in ((20, 10), (10, 20), (9.5, 20)):
        swarm = make_swarm(acme, [StepOf("one")], {"worker": AgentOf(agents)}, running=False)
        since = NOW - days * DAY
        Holding.objects.create(
            swarm=swarm, tenant=acme, agents=agents, memory_gb=1, cpu=1, since=since, until=since + DAY
        )
    Rate.objects.create(kind=Accruing.INFRASTRUCTURE, price=NANO // 100, effective_from=NOW - 30 * DAY)
    accrue(now=NOW, most=10_000)
    refresh(now=NOW)
    advice = the(AdviceKind.LARGE_POOL)
    assert advice.facts == {"agents_total": 100, "new_total": 50, "peak": 40}
    assert advice.saving == 50 * 720 * NANO // 100
    assert advice.tenant is None
    assert not Advice.objects.visible_to(principal_of(finance)).exists()
    with pytest.raises(AccessDenied, match="platform"):
        act_on(advice, by=principal_of(finance), now=NOW)
    act_on(advice, by=principal_of(platform_admin), now=NOW)
    assert ResourcePool.objects.current().agents_total == 50
    assert AuditEntry.objects.get(action="pool:update").details == {"agents_total": [100, 50]}


# -- deciding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def advice(acme: Tenant, prices: None) -> Advice:
    Provider.objects.create(name="simulated")
    short_calls(acme)
    refresh(now=NOW)
    return the(AdviceKind.DEAR_MODEL)


def test_acting_changes_the_swarms_submitted_from_then_on_and_is_in_the_trail(
    advice: Advice, acme: Tenant, finance: User, developer: User
) -> None:  # C8
    act_on(advice, by=principal_of(finance), now=NOW)
    override = AgentOverride.objects.get()
    assert (override.tenant, override.agent, override.model, override.advice_id) == (acme, "writer", SMALL, advice.pk)
    assert set(AuditEntry.objects.values_list("action", flat=True)) >= {"override:create", "cost:update"}
    assert refresh(now=NOW) == 0  # it is done, though the last 30 days still show it

    override.max_replicas = 3
    override.save()
    spec = desk.spec("brief", replicas=8)
    spec["agents"]["writer"]["replicas"] = 5
    swarm = submit(spec, tenant=acme, by=principal_of(developer), now=NOW)
    writer = swarm.agents.get(name="writer")
    assert (writer.model, writer.replicas) == (SMALL, 3)
    assert swarm.overrides == {"writer": {"model": [LARGE, SMALL], "replicas": [5, 3]}}
    assert swarm.agents_asked == 8 + 3
    assert swarm.agents.get(name="reader").replicas == 8
    assert swarm.spec["agents"]["writer"]["model"] == LARGE  # as it was submitted

    override.delete()
    assert submit(spec, tenant=acme, by=principal_of(developer), now=NOW).overrides == {}


def test_an_override_that_can_no_longer_be_run_is_named(
    advice: Advice, acme: Tenant, finance: User, developer: User
) -> None:
    act_on(advice, by=principal_of(finance), now=NOW)
    AgentOverride.objects.update(model="elsewhere:tiny")
    with pytest.raises(SpecInvalid, match="An agent override sets this model"):
        submit(desk.spec("brief"), tenant=acme, by=principal_of(developer), now=NOW)


def test_an_act_that_is_refused_leaves_nothing_behind(advice: Advice, finance: User) -> None:
    Provider.objects.update(is_enabled=False)
    with pytest.raises(CannotDecide, match="switched off"):
        act_on(advice, by=principal_of(finance), now=NOW)
    advice.refresh_from_db()
    assert advice.status == "open"
    assert not AgentOverride.objects.exists()
    assert not AuditEntry.objects.filter(action="override:create").exists()


def test_dismissed_advice_stays_dismissed_until_the_saving_doubles(advice: Advice, acme: Tenant, finance: User) -> None:
    by = principal_of(finance)
    with pytest.raises(CannotDecide, match="Say why"):
        dismiss(advice, reason=" ", by=by, now=NOW)
    dismiss(advice, reason="Quality first.", by=by, now=NOW)
    with pytest.raises(CannotDecide, match="decided already"):
        act_on(advice, by=by, now=NOW)
    short_calls(acme, count=239)
    assert refresh(now=NOW) == 0
    short_calls(acme, count=1)
    assert refresh(now=NOW) == 1
    advice.refresh_from_db()
    assert (advice.status, advice.reason, advice.entries) == ("open", "", 480)


def test_what_was_acted_on_comes_back_when_it_is_still_found_a_month_later(advice: Advice, finance: User) -> None:
    act_on(advice, by=principal_of(finance), now=NOW - 30 * DAY)
    assert refresh(now=NOW) == 1


def test_those_who_may_only_read_cannot_decide(advice: Advice, viewer: User, outsider: User) -> None:  # A5
    for user in (viewer, outsider):
        with pytest.raises(AccessDenied):
            act_on(advice, by=principal_of(user), now=NOW)
        with pytest.raises(AccessDenied):
            dismiss(advice, reason="no", by=principal_of(user), now=NOW)
    advice.refresh_from_db()
    assert advice.status == "open"


# -- the doors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_finders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own button looks at today; the rows of these tests lie elsewhere."""
    monkeypatch.setattr(advising, "_finders", {})


def post(client: Client, **fields: str) -> str:
    return str(client.post(PAGE, fields, follow=True).content.decode())


def test_finance_sees_advice_and_acts_on_it(advice: Advice, finance: User, acme: Tenant) -> None:
    client = staff(finance)
    text = client.get(PAGE).content.decode()
    for shown in ("$2.25 a month", "Simple work on a dear model", "240 ledger entries", "Use the cheaper model"):
        assert shown in text, shown
    assert str(advice.sample_ids[0]) in text
    ledger = re.search(r'href="(/admin/costs/ledgerentry/\?[^"]+)"', text)
    assert ledger
    rows = client.get(html.unescape(ledger[1])).content.decode()
    assert "$2.50" in rows  # 240 calls of just over a cent, and nothing else
    assert "$2.25" in client.get("/admin/").content.decode()
    assert "Done." in post(client, do="act", advice=str(advice.pk))
    assert AgentOverride.objects.get().model == SMALL
    assert "decided already" in post(client, do="dismiss", advice=str(advice.pk), reason="no")


def test_finance_dismisses_with_a_reason(advice: Advice, finance: User) -> None:
    client = staff(finance)
    assert "Say why" in post(client, do="dismiss", advice=str(advice.pk))
    assert "Quality first." in post(client, do="dismiss", advice=str(advice.pk), reason="Quality first.")
    assert "There is no such advice" in post(client, do="act", advice="x")
    assert "There is no such advice" in post(client, do="act", advice=str(uuid4()))
    assert "choose to act or to dismiss" in post(client, do="dance", advice=str(advice.pk))


def test_looking_now_finds_nothing_new_without_data(no_finders: None, finance: User, viewer: User) -> None:
    assert "Nothing to advise" in staff(finance).get(PAGE).content.decode()
    assert "this is what was found" in post(staff(finance), do="look")
    assert "needs the permission" in post(staff(viewer), do="look")
    assert tasks.find_advice() == 0


def test_others_look_without_buttons_or_see_nothing(advice: Advice, viewer: User, outsider: User) -> None:  # A5
    text = staff(viewer).get(PAGE).content.decode()
    assert "$2.25 a month" in text
    assert "Use the cheaper model</button>" not in text
    assert 'value="dismiss"' not in text
    client = staff(outsider)
    assert "Nothing to advise" in client.get(PAGE).content.decode()
    assert "There is no such advice" in post(client, do="act", advice=str(advice.pk))
    assert Client().get(PAGE).status_code == 302
    assert Advice.objects.get().status == "open"


def test_the_page_takes_the_same_queries_however_much_advice_there_is(
    advice: Advice, finance: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for n in range(15):
        Advice.objects.create(
            tenant=advice.tenant, kind=advice.kind, key=str(n), text="t", saving=1, facts=advice.facts,
            window_start=NOW, window_end=NOW,
        )  # fmt: skip
    client = staff(finance)
    with django_assert_max_num_queries(20):
        assert client.get(PAGE).status_code == 200


def test_the_api_lists_advice_by_saving(advice: Advice, finance: User, outsider: User, acme: Tenant) -> None:  # C8
    call_api = Caller(finance)
    (found,) = call_api.get("/costs/advice/?status=open&tenant=acme").json()["results"]
    assert (found["tenant"], found["kind"], found["saving_usd"]) == ("acme", "dear_model", "2.2464")
    assert found["evidence"]["filter"] == {"kind": "llm", "agent": "writer", "model": LARGE}
    assert (found["evidence"]["entries"], len(found["evidence"]["sample_ids"])) == (240, 5)
    assert call_api.get("/costs/advice/?status=dismissed").json()["results"] == []
    assert call_api.get("/costs/advice/?status=new").status_code == 400
    assert Caller(outsider).get("/costs/advice/").json()["results"] == []
    assert Caller(None).get("/costs/advice/").status_code == 401


def test_a_finding_is_kept_only_with_rows_to_rest_on(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Finding(acme.pk, AdviceKind.DEAR_MODEL, "k", "t", 2 * NANO, NOW - 4 * DAY, NOW, 0, {})
    monkeypatch.setattr(advising, "_finders", {AdviceKind.DEAR_MODEL: lambda now, thresholds: [found]})
    assert refresh(now=NOW) == 0


def override_form(tenant: Tenant, **fields: str) -> dict[str, str]:
    return {"tenant": str(tenant.pk), "agent": "writer", "model": "", "max_replicas": "", "note": "", **fields}


def test_finance_sets_and_removes_an_override_by_hand(advice: Advice, acme: Tenant, finance: User) -> None:
    client = staff(finance)
    add = "/admin/swarms/agentoverride/add/"
    for fields, says in (
        ({}, "this changes nothing"),
        ({"model": "nobody:knows"}, "no provider"),
        ({"model": "simulated:unheard"}, "No price is known"),
        ({"max_replicas": "0"}, "greater than or equal to 1"),
    ):
        page = html.unescape(client.post(add, override_form(acme, **fields)).content.decode())
        assert says in page, says
    client.post(add, override_form(acme, max_replicas="4"))
    made = AgentOverride.objects.get()
    assert (made.agent, made.model, made.max_replicas) == ("writer", "", 4)
    assert AuditEntry.objects.get(action="override:create").resource_id == str(made.pk)
    act_on(advice, by=principal_of(finance), now=NOW)  # adds to it
    made.refresh_from_db()
    assert (made.model, made.max_replicas) == (SMALL, 4)
    client.post(f"/admin/swarms/agentoverride/{made.pk}/delete/", {"post": "yes"})
    assert not AgentOverride.objects.exists()
    assert AuditEntry.objects.filter(action="override:delete").exists()


def test_an_outsider_sets_no_override_here(acme: Tenant, prices: None, viewer: User, outsider: User) -> None:  # A5
    add = "/admin/swarms/agentoverride/add/"
    assert staff(viewer).get(add).status_code == 403
    refused = staff(outsider).post(add, override_form(acme, max_replicas="4")).content.decode()
    assert "Select a valid choice" in refused
    assert not AgentOverride.objects.exists()
