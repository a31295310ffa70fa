"""Submitting a swarm: what is written, what is refused, and that nothing stays of what was refused."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.costs.models import Budget
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.providers.models import Provider
from apps.swarms import runtimes
from apps.swarms.actions.submit import CannotSubmit, submit
from apps.swarms.models import Agent, Priority, ResourcePool, Step, Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.specs import SpecInvalid
from apps.tenants.access import AccessDenied, Principal, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from tests.specs import BRIEF, NOW, simulated, spec, task

pytestmark = pytest.mark.django_db

BY = principal_of_command("submit_swarm")


@pytest.fixture(autouse=True)
def provider(db: None) -> Provider:
    return simulated()


def errors_of(source: str | dict[str, Any], tenant: Tenant) -> dict[str, str]:
    """{path: message} of what is wrong with a spec; the test fails when nothing is."""
    with pytest.raises(SpecInvalid) as caught:
        submit(source, tenant=tenant, by=BY, now=NOW)
    return {error.path: error.message for error in caught.value.errors}


# -- what is written


def test_a_submitted_swarm_is_queued_with_its_agents_steps_and_tasks(acme: Tenant, owner: User) -> None:  # O1
    swarm = submit(BRIEF, tenant=acme, by=principal_of(owner), user=owner, now=NOW)
    swarm.refresh_from_db()
    assert (swarm.name, swarm.status, swarm.priority) == ("market-brief", SwarmStatus.QUEUED, Priority.HIGH)
    assert (swarm.submitted_by, swarm.created_at, swarm.queued_at) == (owner, NOW, NOW)
    assert (swarm.tasks_total, swarm.estimated_duration_s) == (4, 120)
    researcher, writer = Agent.objects.filter(swarm=swarm).order_by("name")
    assert (researcher.model, researcher.replicas, researcher.slots_free) == ("simulated:small", 4, 4)
    assert researcher.retry == {"max_retries": 3, "base_delay_s": 5, "factor": 3, "max_delay_s": 60}
    assert (writer.replicas, writer.slots_free, writer.retry, writer.timeout_s) == (1, 1, {}, 120)
    gather, brief = Step.objects.filter(swarm=swarm)
    assert (gather.is_fan_out, gather.tasks_total, gather.tasks_open, gather.open_needs) == (True, 3, 3, 0)
    assert (brief.is_fan_out, brief.tasks_open, brief.needs, brief.open_needs) == (False, 1, ["gather"], 1)
    tasks = Task.objects.filter(swarm=swarm).select_related("step")
    assert [(t.key, t.item) for t in tasks] == [
        ("gather[0]", "pricing"),
        ("gather[1]", "rivals"),
        ("gather[2]", "demand"),
        ("brief", None),
    ]
    assert {t.status for t in tasks} == {TaskStatus.PENDING}


def test_it_asks_the_pool_for_every_replica(acme: Tenant) -> None:  # O2
    swarm = submit(BRIEF, tenant=acme, by=BY, now=NOW)
    assert (swarm.agents_asked, swarm.memory_gb_asked, swarm.cpu_asked) == (5, Decimal(10), Decimal("2.5"))
    assert not swarm.holds_resources
    assert ResourcePool.objects.current().agents_used == 0


def test_only_the_retry_settings_that_were_written_are_kept(acme: Tenant) -> None:
    agents = {"worker": {"model": "simulated:small", "retry": {"max_retries": 1}}}
    swarm = submit(spec(agents=agents), tenant=acme, by=BY, now=NOW)
    assert swarm.agents.get().retry == {"max_retries": 1}


def test_its_own_budget_is_hard_and_for_this_run(acme: Tenant) -> None:  # C2
    swarm = submit(BRIEF, tenant=acme, by=BY, now=NOW)
    budget = Budget.objects.get()
    assert (budget.scope, budget.target, budget.period) == ("swarm", str(swarm.pk), "run")
    assert (budget.enforcement, budget.limit) == ("hard", 2_500_000_000)


def test_the_person_it_runs_for_is_kept_as_a_pseudonym_only(acme: Tenant) -> None:
    swarm = submit(BRIEF, tenant=acme, by=BY, now=NOW)
    subject = DataSubject.objects.get(tenant_id=acme.pk)
    assert (subject.reference, swarm.subject_id) == ("user-8842", subject.pk)
    kept = [swarm.spec, *Event.objects.values_list("data", flat=True), *AuditEntry.objects.values_list("details")]
    assert "user-8842" not in str(kept)
    assert submit(BRIEF, tenant=acme, by=BY, now=NOW).subject_id == subject.pk


def test_submitting_is_audited_and_an_event(acme: Tenant, owner: User) -> None:  # G5
    swarm = submit(BRIEF, tenant=acme, by=principal_of(owner, address="192.0.2.7"), user=owner, now=NOW)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.resource_id, entry.actor) == ("swarm:create", str(swarm.pk), str(owner.pk))
    assert (entry.tenant_id, entry.address, entry.details["tasks"]) == (acme.pk, "192.0.2.7", 4)
    event = Event.objects.get(kind="swarm.submitted")
    assert (event.swarm_id, event.tenant_id, event.at) == (swarm.pk, acme.pk, NOW)
    assert event.data["budget_usd"] == "2.5"


def test_nothing_stays_when_the_audit_entry_cannot_be_written(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(trail, "record", broken)
    with pytest.raises(RuntimeError):
        submit(BRIEF, tenant=acme, by=BY, now=NOW)
    assert not Swarm.objects.exists()
    assert not Budget.objects.exists()
    assert not DataSubject.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("items", [2_000, 10_000])
def test_large_swarms_are_written_with_few_queries(
    acme: Tenant, items: int, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    large = spec(tasks=[task("do", for_each=list(range(items)), prompt="Do {{ item }}.")])
    with django_assert_max_num_queries(20):
        swarm = submit(large, tenant=acme, by=BY, now=NOW)
    assert Task.objects.filter(swarm=swarm).count() == swarm.tasks_total == items


# -- what is refused


def test_a_tenant_that_is_not_active_submits_nothing(acme: Tenant) -> None:
    acme.is_active = False
    acme.save()
    with pytest.raises(CannotSubmit, match="acme is not active"):
        submit(BRIEF, tenant=acme, by=BY, now=NOW)


def test_people_without_the_permission_submit_nothing(
    acme: Tenant, viewer: User, finance: User, outsider: User
) -> None:  # A5
    for user in (viewer, finance, outsider):
        with pytest.raises(AccessDenied, match="swarm:create"):
            submit(BRIEF, tenant=acme, by=principal_of(user), user=user, now=NOW)
    assert not Swarm.objects.exists()


def test_every_error_is_told_at_once_those_of_the_spec_and_those_of_this_installation(acme: Tenant) -> None:  # O1
    found = errors_of(
        spec(
            agents={
                "worker": {"model": "simulated:small", "replicas": 0},
                "stranger": {"model": "acme-llm:big"},
                "web": {"runtime": "http", "url": "https://agents.example.test/run"},
            },
            tasks=[task("do", needs=["dig"])],
        ),
        acme,
    )
    assert found == {
        "agents.worker.replicas": "Must be at least 1.",
        "agents.stranger.model": "There is no provider 'acme-llm'; there is simulated.",
        "agents.web.runtime": "This installation runs llm and python agents only, not http ones.",
        "tasks[0].needs[0]": "There is no task 'dig'.",
    }
    assert not Swarm.objects.exists()


def test_a_model_without_a_price_is_an_error_that_names_it(acme: Tenant) -> None:  # P9
    found = errors_of(spec(agents={"worker": {"model": "simulated:giant"}}), acme)
    assert found.keys() == {"agents.worker.model"}
    assert "simulated:giant" in found["agents.worker.model"]


def test_a_price_of_another_tenant_does_not_count(acme: Tenant, rival: Tenant) -> None:
    from apps.costs.models import Price

    Price.objects.create(
        tenant=rival, provider="simulated", model="own", input_per_mtok=1, output_per_mtok=1, effective_from=NOW
    )
    own = spec(agents={"worker": {"model": "simulated:own"}})
    assert errors_of(own, acme).keys() == {"agents.worker.model"}
    assert submit(own, tenant=rival, by=BY, now=NOW)


def test_a_provider_that_is_switched_off_is_an_error(acme: Tenant, provider: Provider) -> None:
    provider.is_enabled = False
    provider.save()
    assert errors_of(spec(), acme) == {"agents.worker.model": "The provider 'simulated' is switched off."}


def test_python_agents_name_a_registered_callable(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:  # E6
    monkeypatch.setitem(runtimes.callables, "count-words", len)
    agents = {"worker": {"runtime": "python", "callable": "count-word"}}
    expected = "No callable is registered here as 'count-word'; did you mean 'count-words'?"
    assert errors_of(spec(agents=agents), acme) == {"agents.worker.callable": expected}
    agents["worker"]["callable"] = "count-words"
    swarm = submit(spec(agents=agents), tenant=acme, by=BY, now=NOW)
    assert swarm.agents.get().options == {"callable": "count-words"}


def test_what_can_never_fit_the_pool_is_refused_with_the_numbers(acme: Tenant) -> None:  # O1
    ResourcePool.objects.update(agents_total=10, memory_gb_total=15, cpu_total=100)
    found = errors_of(spec(agents={"worker": {"model": "simulated:small", "replicas": 12}}), acme)
    assert found == {
        "agents": "Its replicas ask for 12 agents, 24 GB of memory and 6 CPU cores; the pool has 10 agents, 15 GB of "
        "memory, 100 CPU cores and 50 places for swarms in all. It can never start: 2 agents and 9 GB of memory too "
        "much."
    }


def test_what_only_has_to_wait_is_queued(acme: Tenant) -> None:
    ResourcePool.objects.update(agents_total=10, agents_used=10)
    assert submit(BRIEF, tenant=acme, by=BY, now=NOW).status == SwarmStatus.QUEUED


def test_more_agents_than_the_tenant_may_have_are_refused(acme: Tenant) -> None:  # O3
    acme.max_agents = 4
    acme.save()
    found = errors_of(BRIEF, acme)
    assert found == {"agents": "Its 5 replicas are more agents than acme may have at once (4). It can never start."}


def test_amounts_beyond_every_column_are_an_error_like_any_other(acme: Tenant) -> None:
    most = {"model": "simulated:small", "replicas": 10_000, "memory_gb": 100_000, "cpu": 100_000}
    found = errors_of(spec(agents={f"worker{n}": most for n in range(50)} | {"worker": most}), acme)
    assert found.keys() == {"agents"}


def test_two_swarms_of_one_name_can_have_budgets(acme: Tenant) -> None:
    first, second = (submit(BRIEF, tenant=acme, by=BY, now=NOW) for _ in range(2))
    assert {b.target for b in Budget.objects.all()} == {str(first.pk), str(second.pk)}


# -- who sees it


def test_swarms_and_tasks_are_seen_by_their_tenant_alone(acme: Tenant, viewer: User, outsider: User) -> None:  # A5
    submit(BRIEF, tenant=acme, by=BY, now=NOW)

    def seen(principal: Principal) -> tuple[int, int]:
        return Swarm.objects.visible_to(principal).count(), Task.objects.visible_to(principal).count()

    assert seen(principal_of(viewer)) == (1, 4)
    assert seen(principal_of(outsider)) == (0, 0)


def test_swarms_are_found_by_the_words_of_their_name(acme: Tenant) -> None:
    submit(BRIEF, tenant=acme, by=BY, now=NOW)
    assert Swarm.objects.search("Brief market").count() == 1
    assert Swarm.objects.search("brief weather").count() == 0


def test_ids_sort_by_the_order_of_writing(acme: Tenant) -> None:
    first, second = (submit(spec(), tenant=acme, by=BY, now=NOW).pk for _ in range(2))
    assert isinstance(first, uuid.UUID)
    assert first.version == 7
    assert first < second or str(first)[:13] == str(second)[:13]
