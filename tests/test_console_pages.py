"""The console's pages: what they show, to whom, and with how many queries."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.costs.models import Budget
from apps.execution.models import Tick
from apps.observability.models import WatchdogRun
from apps.providers import switching
from apps.swarms import admission
from apps.swarms.models import ResourcePool, Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests import desk
from tests.regions import make_provider, region_of

pytestmark = pytest.mark.django_db
USD = 1_000_000_000
# Of the queries allowed below, two to four find out how far the event log can be read.


@pytest.fixture(autouse=True)
def for_sale(db: None) -> None:
    desk.models_for_sale()


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text_of(response: Any) -> str:
    """What a person reads: the page without its tags, and with single blanks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture
def swarm(acme: Tenant, operator: User) -> Swarm:
    """Running: two tasks read, two in flight."""
    made = desk.started(desk.spec("acme-brief", budget_usd=1), acme, operator)
    desk.work(2)
    desk.take(2)
    made.refresh_from_db()
    return made


# -- the overview --------------------------------------------------------------------------------------------------


def test_an_empty_desk_says_how_to_begin(operator: User) -> None:
    desk.platform_is_up()
    shown = text_of(logged_in(operator).get("/"))
    assert "All is well." in shown
    assert "manage.py submit_swarm spec.yaml --tenant acme --wait" in shown
    assert "The queue is empty" in shown
    assert "No swarm has finished yet." in shown


def test_running_swarms_show_progress_flight_and_cost(operator: User, swarm: Swarm) -> None:
    shown = text_of(logged_in(operator).get("/"))
    assert "acme-brief" in shown
    assert "2 /5 tasks · 40 %" in shown
    assert "2 in flight" in shown
    assert "$0.006000 of $1.00" in shown


def test_what_needs_attention_comes_first_and_says_what_to_do(operator: User, acme: Tenant) -> None:
    now = timezone.now()
    failed = desk.started(desk.spec("broken", items=1), acme, operator)
    desk.work(status=TaskStatus.FAILED, error="500 from the provider")
    failed.refresh_from_db()
    assert failed.status == SwarmStatus.FAILED
    desk.submitted(desk.spec("patient"), acme, operator, now=now - dt.timedelta(minutes=9))
    Budget.objects.create(tenant=acme, name="tiny", limit=0)
    page = logged_in(operator).get("/")
    shown = text_of(page)
    assert shown.index("broken failed") < shown.index("Resource pool" if "Resource pool" in shown else "Queue")
    assert "retry its failed tasks" in shown
    assert "patient has waited 9" in shown
    assert "No orchestrator is running" in shown
    assert "manage.py orchestrate" in shown
    assert "No runner is alive" in shown
    assert "Budget “tiny” is used up" in shown


def test_a_silent_orchestrator_is_noticed_after_15_seconds(operator: User) -> None:
    now = timezone.now()
    desk.platform_is_up(now - dt.timedelta(seconds=14))
    client = logged_in(operator)
    assert "All is well" in text_of(client.get("/"))
    Tick.objects.update(at=now - dt.timedelta(seconds=20))
    assert "The orchestrator has stopped ticking" in text_of(client.get("/"))


def test_what_the_watchdog_found_is_told_and_its_lines_only_to_platform_admins(
    operator: User, platform_admin: User
) -> None:
    findings = {"leases": {"about": "Running tasks without a lease", "faults": ["task 1", "task 2", "task 3"]}}
    WatchdogRun.objects.create(ok=False, findings=findings)
    shown, all_shown = (text_of(logged_in(user).get("/")) for user in (operator, platform_admin))
    assert "Running tasks without a lease" in shown
    assert "task 1" not in shown
    assert "task 1 task 2 And 1 more." in all_shown
    WatchdogRun.objects.create(ok=True)
    assert "without a lease" not in text_of(logged_in(operator).get("/"))


def test_a_provider_that_failed_over_or_is_down_is_told(operator: User, outsider: User) -> None:
    provider = make_provider("east", "west", name="other")
    for name, told in (("east", "other has failed over to west"), ("west", "No region of other answers")):
        switching.open_by_hand(region_of(provider, name), by=trail.Actor("command", "test"), reason="Test.")
        assert told in text_of(logged_in(operator).get("/"))
    assert "/admin/providers/region/" not in logged_in(outsider).get("/").content.decode()


def test_the_queue_shows_place_reason_and_start(operator: User, acme: Tenant) -> None:
    ResourcePool.objects.update(agents_total=4)
    desk.started(desk.spec("first"), acme, operator)
    desk.started({**desk.spec("second"), "estimated_duration_s": 60}, acme, operator)
    second = Swarm.objects.get(name="second")
    assert second.queue_reason
    shown = text_of(logged_in(operator).get("/"))
    assert second.queue_reason in shown


def test_people_of_several_tenants_can_look_at_one(operator: User, acme: Tenant, rival: Tenant, outsider: User) -> None:
    Membership.objects.create(user=operator, tenant=rival, role=Role.OPERATOR)
    desk.started(desk.spec("ours"), acme, operator)
    desk.started(desk.spec("theirs"), rival, outsider)
    client = logged_in(operator)
    both, one = client.get("/").content.decode(), client.get("/?tenant=rival").content.decode()
    assert "ours" in both
    assert "theirs" in both
    assert ">ours<" not in one
    assert "theirs" in one


def test_the_overview_with_50_swarms_and_200_finished_takes_a_fixed_number_of_queries(
    operator: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    now = timezone.now()
    desk.platform_is_up(now)
    for n in range(3):
        Budget.objects.create(tenant=acme, name=f"budget {n}", limit=USD)

    def rows(count: int, status: SwarmStatus, **fields: Any) -> None:
        Swarm.objects.bulk_create(
            Swarm(tenant=acme, name=f"{status} {n}", spec={}, status=status, tasks_total=3, **fields)
            for n in range(count)
        )

    rows(1, SwarmStatus.RUNNING, started_at=now)
    client = logged_in(operator)
    with django_assert_max_num_queries(30):
        client.get("/")
    rows(49, SwarmStatus.RUNNING, started_at=now)
    rows(30, SwarmStatus.QUEUED, queued_at=now - dt.timedelta(hours=1))
    rows(200, SwarmStatus.FAILED, started_at=now, finished_at=now)
    with django_assert_max_num_queries(35):
        shown = text_of(client.get("/"))
    assert "196 more failed" in shown
    with django_assert_max_num_queries(12):
        client.get("/?part=running")


# -- the list ------------------------------------------------------------------------------------------------------


def test_the_list_filters_searches_and_turns_pages(
    operator: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    Swarm.objects.bulk_create(
        Swarm(tenant=acme, name=f"number {n:03}", spec={}, status=SwarmStatus.SUCCEEDED, priority=n % 4)
        for n in range(60)
    )
    client = logged_in(operator)
    with django_assert_max_num_queries(12):
        assert "1–25 of 60 swarms" in text_of(client.get("/swarms/"))
    assert "51–60 of 60" in text_of(client.get("/swarms/?page=3"))
    assert "number 042" in text_of(client.get("/swarms/?q=042"))
    assert "1 swarm" in text_of(client.get("/swarms/?q=042"))
    assert "15 swarms" in text_of(client.get("/swarms/?priority=3&status=succeeded"))
    assert "No swarm matches" in text_of(client.get("/swarms/?status=failed"))


@pytest.mark.parametrize(
    "query",
    [
        "?page=x",
        "?page=-4",
        "?page=99999",
        "?status=nonsense",
        "?priority=9%00",
        "?q=%00",
        "?q=%25_%27",
        "?tenant=%27",
        "?part=nonsense",
    ],
)
def test_the_list_takes_any_query_with_grace(operator: User, query: str) -> None:
    assert logged_in(operator).get(f"/swarms/{query}").status_code == 200


# -- a swarm -------------------------------------------------------------------------------------------------------


def test_the_page_of_a_swarm_tells_all_about_it(
    operator: User, swarm: Swarm, django_assert_max_num_queries: Any
) -> None:
    client = logged_in(operator)
    with django_assert_max_num_queries(20):
        page = client.get(f"/swarms/{swarm.pk}/")
    shown = text_of(page)
    assert "40 %" in shown
    assert "2 of 5 tasks are over" in shown
    assert "0 % of the run's budget of $1.00" in shown
    for task in Task.objects.filter(swarm=swarm, status=TaskStatus.SUCCEEDED).named():
        assert f"{task.key} succeeded" in shown
    for task in Task.objects.filter(swarm=swarm, status=TaskStatus.RUNNING).named():
        assert f"{task.key} started" in shown
    assert "Needs read" in shown
    assert "840 / 192" in shown  # tokens of the reader


def test_the_number_of_queries_does_not_grow_with_the_tasks(
    operator: User, acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    swarm = desk.started(desk.spec("wide", items=300, replicas=50), acme, operator)
    desk.work(40)
    client = logged_in(operator)
    with django_assert_max_num_queries(20):
        page = client.get(f"/swarms/{swarm.pk}/?status=pending&page=2")
    assert "26–50 of" in text_of(page)
    with django_assert_max_num_queries(12):
        client.get(f"/swarms/{swarm.pk}/?part=head,graph")


def test_tasks_can_be_filtered_by_status_and_step(operator: User, swarm: Swarm) -> None:
    client = logged_in(operator)
    named = Task.objects.filter(swarm=swarm).named()
    running = client.get(f"/swarms/{swarm.pk}/?part=tasks&status=running").content.decode()
    writing = client.get(f"/swarms/{swarm.pk}/?part=tasks&step=write").content.decode()
    for task in named:
        assert (f">{task.key}<" in running) == (task.status == TaskStatus.RUNNING)
        assert (f">{task.key}<" in writing) == (task.step.name == "write")


def test_terminating_asks_for_a_reason_and_writes_it_down(operator: User, swarm: Swarm) -> None:
    client = logged_in(operator)
    response = client.post(f"/swarms/{swarm.pk}/terminate/", {"reason": "  "}, follow=True)
    assert "Terminate was refused. Say why" in text_of(response)
    response = client.post(f"/swarms/{swarm.pk}/terminate/", {"reason": "wrong prompt"}, follow=True)
    assert "acme-brief is being terminated" in text_of(response)
    swarm.refresh_from_db()
    assert swarm.status == SwarmStatus.STOPPING
    entry = AuditEntry.objects.get(action="swarm:terminate")
    assert (entry.actor, entry.reason, entry.address) == (str(operator.pk), "wrong prompt", "127.0.0.1")
    again = client.post(f"/swarms/{swarm.pk}/terminate/", {"reason": "again"}, follow=True)
    assert "It is being terminated already." in text_of(again)


def test_a_reason_with_characters_that_no_database_takes_is_taken_without_them(operator: User, swarm: Swarm) -> None:
    logged_in(operator).post(f"/swarms/{swarm.pk}/terminate/", {"reason": "wrong\x00 prompt"})
    swarm.refresh_from_db()
    assert swarm.status_reason == "wrong prompt"


def test_pause_and_resume_come_back_to_the_page(operator: User, swarm: Swarm) -> None:
    client = logged_in(operator)
    paused = client.post(f"/swarms/{swarm.pk}/pause/", follow=True)
    assert "acme-brief is paused" in text_of(paused)
    assert f"/swarms/{swarm.pk}/resume/" in paused.content.decode()
    assert f"/swarms/{swarm.pk}/pause/" not in paused.content.decode()
    assert "acme-brief goes on" in text_of(client.post(f"/swarms/{swarm.pk}/resume/", follow=True))


def test_an_act_that_does_not_exist_is_not_found(operator: User, swarm: Swarm) -> None:
    assert logged_in(operator).post(f"/swarms/{swarm.pk}/explode/").status_code == 404
    assert logged_in(operator).get(f"/swarms/{swarm.pk}/terminate/").status_code == 405


def test_failed_tasks_can_be_retried_from_both_pages(operator: User, acme: Tenant) -> None:
    swarm = desk.started(desk.spec("flaky", items=2), acme, operator)
    desk.work(1, status=TaskStatus.FAILED, error="500 from the provider")
    desk.work(1)
    client = logged_in(operator)
    task = Task.objects.get(swarm=swarm, status=TaskStatus.FAILED)
    page = client.get(f"/tasks/{task.pk}/")
    assert "500 from the provider" in text_of(page)
    assert "#1" in text_of(page)
    assert "runs again" in text_of(client.post(f"/tasks/{task.pk}/retry/", follow=True))
    refused = client.post(f"/tasks/{task.pk}/retry/", follow=True)
    assert "Retry was refused" in text_of(refused)
    admission.admit(now=timezone.now())
    desk.work(1, status=TaskStatus.FAILED, error="and again")
    assert "runs its failed tasks again" in text_of(client.post(f"/swarms/{swarm.pk}/retry/", follow=True))


def test_the_page_of_a_task_shows_prompt_result_and_attempts(
    operator: User, swarm: Swarm, django_assert_max_num_queries: Any
) -> None:
    task = Task.objects.filter(swarm=swarm, status=TaskStatus.SUCCEEDED).first()
    assert task
    client = logged_in(operator)
    with django_assert_max_num_queries(12):
        page = client.get(f"/tasks/{task.pk}/")
    shown = text_of(page)
    assert f"Read page {task.index}." in shown
    assert f"Three facts on page {task.index}." in shown
    assert "420 / 96" in shown
    assert "1.4 s" in shown


def test_what_agents_and_people_write_is_never_read_as_html(operator: User, acme: Tenant) -> None:
    evil = "<script>alert(1)</script>"
    swarm = desk.started(desk.spec("quiet", items=1), acme, operator)
    Swarm.objects.filter(pk=swarm.pk).update(name=evil, status_reason=evil)
    task = Task.objects.filter(swarm=swarm).first()
    assert task
    Task.objects.filter(pk=task.pk).update(result=evil, error=evil, item=evil)
    client = logged_in(operator)
    for path in ("/", "/swarms/", f"/swarms/{swarm.pk}/", f"/tasks/{task.pk}/"):
        assert evil not in client.get(path).content.decode(), path


# -- submitting ----------------------------------------------------------------------------------------------------


def test_a_spec_is_submitted_and_its_page_opens(operator: User, acme: Tenant) -> None:
    client = logged_in(operator)
    example = client.get("/submit/?example=market-brief")
    source = example.context["source"]
    assert "swarm: market-brief" in source
    response = client.post("/submit/", {"tenant": "acme", "spec": source})
    swarm = Swarm.objects.get()
    assert response["Location"] == f"/swarms/{swarm.pk}/"
    assert swarm.submitted_by == operator


def test_errors_are_listed_by_path_and_nothing_typed_is_lost(operator: User, acme: Tenant) -> None:
    typed = (
        "swarm: broken\nagents: {a: {runtime: llm, model: 'nobody:knows'}}\ntasks: [{id: x, agent: b, prompt: hi}]\n"
    )
    response = logged_in(operator).post("/submit/", {"tenant": "acme", "spec": typed})
    assert response.status_code == 422
    page = response.content.decode()
    assert "tasks[0].agent" in page
    assert "agents.a.model" in page
    assert "nothing was submitted" in page
    assert response.context["source"] == typed
    assert '<option value="acme" selected>' in page


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "Write a spec first"),
        ("{", "nothing was submitted"),
        ("- 1", "nothing was submitted"),
        ("swarm: a\x00b", "nothing was submitted"),
    ],
)
def test_nonsense_is_answered_with_what_to_do(operator: User, spec: str, said: str) -> None:
    assert said in text_of(logged_in(operator).post("/submit/", {"tenant": "acme", "spec": spec}))
