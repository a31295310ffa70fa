"""Trying a region: asked for on its page, called by a runner that may hold the key, told whatever happens."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.consistency import spent_differs_from_ledger
from apps.costs.models import BudgetPeriod, LedgerEntry, Reservation
from apps.costs.reserving import charge_expired
from apps.execution import trying
from apps.execution.flights import RunnerConfig
from apps.execution.models import RegionTry, Runner, TryStatus
from apps.execution.orchestrator import Orchestrator
from apps.execution.trying import CannotTry, Found
from apps.observability import housekeeping
from apps.providers.clients import ModelClients
from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider, Region
from apps.providers.secrets.keeper import Keeper
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.costs import budget as make_budget
from tests.forks import RUNNER, Forked
from tests.running import SimulatorProcess, run_until, simulator, wait_until
from tests.secret_backends import Memory
from tests.swarms import simulated_provider
from tests.test_admin_regions import REGIONS, client_of, text_of

KEY = "sk-try-0001-d41d8cd98f00b204"
NOW = dt.datetime(2026, 11, 5, 12, tzinfo=dt.UTC)


@pytest.fixture
def here(own_database: str, acme: Tenant) -> Iterator[SimulatorProcess]:
    """A provider that wants a key, which workers of the class ``agents`` may hold."""
    with simulator("--api-key", KEY, latency_ms=5) as running:
        simulated_provider(running.port)
        Provider.objects.update(secret_name="HOUSE_KEY")
        yield running


def keeper(worker_class: str = "agents") -> Keeper:
    return Keeper(worker_class, backend=Memory({"HOUSE_KEY": KEY}))


def try_url(client: Client) -> str:
    return str(client.get(f"{REGIONS}{Region.objects.get().pk}/try", follow=True).request["PATH_INFO"])


def outcome(client: Client, url: str, model: str, tenant: Tenant) -> str:
    """Asks for a call on the page, watches as the page does, and reads what it shows then."""
    asked = client.post(url, {"model": model, "tenant": str(tenant.pk)})
    assert asked.status_code == 302, text_of(asked)

    def over() -> bool:
        part = client.get(url, headers={"HX-Request": "true"})
        assert part.status_code == 200
        assert part.has_header("HX-Redirect") or "Asked for" in text_of(part)
        return part.has_header("HX-Redirect")

    wait_until(over, what="the end of the try")
    return text_of(client.get(url))


# -- with a runner -----------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_runner_makes_the_call_that_the_tenant_pays_for(
    here: SimulatorProcess, platform_admin: User, acme: Tenant
) -> None:
    root, budget = client_of(platform_admin), make_budget(acme, NANO)
    url = try_url(root)

    def steps(runner: Any) -> None:
        assert here.stats()["requests"] == 0, "nothing is called by looking"
        page = outcome(root, url, "small", acme)
        assert "It works" in page
        assert "16 out" in page
        entry = LedgerEntry.objects.get()
        assert (entry.agent, entry.output_tokens, entry.unsettled) == ("try-it", 16, False)
        assert f"{entry.amount / NANO:.9f}".rstrip("0") in page
        assert (BudgetPeriod.objects.get(budget=budget).spent, Reservation.objects.count()) == (entry.amount, 0)
        asked, told = (AuditEntry.objects.get(action=f"region:{verb}") for verb in ("try", "tried"))
        assert (asked.actor, told.actor) == (str(platform_admin.pk), str(platform_admin.pk))
        assert (told.success, told.details["model"], told.tenant_id) == (True, "simulated:small", acme.pk)
        assert told.details["cost_nano_usd"] == entry.amount
        # A region that fails is shown to fail, and costs nothing.
        here.outage(None, "500")
        page = outcome(root, url, "small", acme)
        assert "It failed" in page
        assert "answered 500" in page
        assert (LedgerEntry.objects.count(), Reservation.objects.count()) == (1, 0)
        here.outage(0)
        # A key that the provider does not take is told, and not shown.
        here.accept("another")
        page = outcome(root, url, "small", acme)
        assert "401" in page
        assert KEY not in page
        here.accept(KEY)
        # No price, no money: no call.
        calls = here.stats()["requests"]
        assert "simulated:unheard-of" in text_of(root.post(url, {"model": "unheard-of", "tenant": str(acme.pk)}))
        budget.limit = 1
        budget.save()
        BudgetPeriod.objects.update(limit=entry.amount, ceiling=entry.amount)
        page = outcome(root, url, "small", acme)
        assert "Not called" in page
        assert "this call can cost up to" in page
        assert here.stats()["requests"] == calls
        assert AuditEntry.objects.filter(action="region:tried", success=False).count() == 3

    run_until(lambda: True, keeper=keeper(), meanwhile=steps, timeout_s=60)
    assert Runner.objects.get().worker_class == "agents"


@pytest.mark.processes
def test_a_call_is_made_once_however_many_ask_and_take(
    here: SimulatorProcess, platform_admin: User, acme: Tenant
) -> None:
    region, by, now = Region.objects.get(), principal_of(platform_admin), timezone.now()

    def ask(_: int) -> bool:
        try:
            trying.ask(region, model="small", tenant=acme, by=by, user=platform_admin, now=now)
        except CannotTry:
            return False
        finally:
            connections.close_all()
        return True

    def take(_: int) -> int:
        try:
            return len(trying.take(Runner().pk, "agents", 5, not_of=[], now=now)[0])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, range(6))) == 1
        assert sum(pool.map(take, range(6))) == 1
    assert AuditEntry.objects.filter(action="region:try").count() == 1


@pytest.mark.processes
def test_a_worker_that_is_told_to_end_tells_that_the_call_was_cut(
    here: SimulatorProcess, platform_admin: User, acme: Tenant
) -> None:
    def steps(runner: Any) -> None:
        region, by = Region.objects.get(), principal_of(platform_admin)
        trying.ask(region, model="hang", tenant=acme, by=by, user=platform_admin, now=timezone.now())
        wait_until(lambda: here.stats()["requests"] == 1, what="the call")

    config = RunnerConfig(grace_s=0.3, write_reserve_s=0.1)
    run_until(lambda: True, config=config, keeper=keeper(), meanwhile=steps)
    cut = RegionTry.objects.get()
    assert (cut.status, "worker was stopped" in cut.text) == (TryStatus.FAILED, True)
    # Nobody knows what it cost: all of it, and marked.
    entry = LedgerEntry.objects.get()
    assert (entry.unsettled, entry.amount, Reservation.objects.count()) == (True, cut.cost, 0)


DOOMED = """
import asyncio
import django
django.setup()
from apps.execution.runner import Runner
from apps.providers.secrets.keeper import Keeper
from tests.secret_backends import Memory
asyncio.run(Runner("doomed", keeper=Keeper("agents", backend=Memory({"HOUSE_KEY": "%s"}))).run())
"""


@pytest.mark.processes
def test_a_worker_that_is_killed_loses_the_call_and_no_money(
    here: SimulatorProcess, platform_admin: User, acme: Tenant
) -> None:  # C4
    root, budget = client_of(platform_admin), make_budget(acme, NANO)
    url = try_url(root)
    doomed = Forked("-c", DOOMED % KEY, ahead=RUNNER)
    try:
        wait_until(Runner.objects.exists, timeout_s=60, what="the runner")
        root.post(url, {"model": "hang", "tenant": str(acme.pk)})
        wait_until(lambda: here.stats()["requests"] == 1, what="the call")
    finally:
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait(10)
    # So far nobody knows; who reloads sees it under way, and another runner leaves it alone.
    assert "Calling" in text_of(root.get(url))
    assert trying.take(Runner().pk, "agents", 5, not_of=[], now=timezone.now()) == ([], False)
    held = Reservation.objects.get()
    # The supervisor finds the process gone.
    Runner.objects.update(finished_at=timezone.now())
    page = text_of(root.get(url))
    assert "Lost" in page
    assert "charged when the reservation's lease ends" in page
    assert "Call it" in page
    told = AuditEntry.objects.get(action="region:tried")
    assert (told.success, told.details["outcome"]) == (False, "lost")
    charge_expired(now=held.expires_at + dt.timedelta(seconds=1))
    entry = LedgerEntry.objects.get()
    assert (entry.amount, entry.unsettled, Reservation.objects.count()) == (held.amount, True, 0)
    assert BudgetPeriod.objects.get(budget=budget).spent == held.amount
    assert spent_differs_from_ledger() == []


# -- without one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def region(db: None) -> Region:
    simulated_provider(9)
    return Region.objects.select_related("provider").get()


def asked(region: Region, user: User, tenant: Tenant, now: dt.datetime = NOW) -> RegionTry:
    return trying.ask(region, model="small", tenant=tenant, by=principal_of(user), user=user, now=now)


LATE = NOW + dt.timedelta(seconds=trying.TAKEN_WITHIN_S)

NOBODY = [
    # the key, classes of the runners alive, what is said
    ("", [], "No worker of the cluster agents is running. Start one: manage.py work --cluster agents"),
    ("", ["agents-eu"], "Workers are alive: see whether they are overloaded"),
    (
        "EU_KEY",
        [],
        "only workers of the class agents-eu may hold, and none is running. Start one: manage.py work --clus",
    ),
    ("EU_KEY", ["agents"], "manage.py work --cluster agents --class agents-eu"),
    ("EU_KEY", ["agents", "agents-eu"], "which workers of the class agents-eu may hold and do not"),
]


@pytest.mark.parametrize(("key", "alive", "told"), NOBODY)
def test_when_no_worker_takes_it_the_person_is_told_what_to_start(
    region: Region, platform_admin: User, acme: Tenant, key: str, alive: list[str], told: str
) -> None:
    Provider.objects.update(secret_name=key, worker_classes=["agents-eu"])
    region.refresh_from_db()
    for number, worker_class in enumerate(alive):
        Runner.objects.create(node="n", pid=number, concurrency=1, worker_class=worker_class, heartbeat_at=LATE)
    asked(region, platform_admin, acme)
    waits = trying.last_of(region, platform_admin, now=LATE - dt.timedelta(seconds=1))
    assert waits is not None
    assert waits.status == TryStatus.WAITING
    over = trying.last_of(region, platform_admin, now=LATE)
    assert over is not None
    assert over.status == TryStatus.UNANSWERED
    assert told in over.text
    # A worker that comes too late makes no call that nobody waits for.
    assert trying.take(Runner().pk, "agents-eu", 5, not_of=[], now=LATE) == ([], False)
    assert AuditEntry.objects.get(action="region:tried").details["outcome"] == "unanswered"
    assert asked(region, platform_admin, acme, LATE).status == TryStatus.WAITING


TAKES = [
    # the provider's key and classes; the runner's class, providers closed to it; takes it, some are left for later
    ("", ["agents"], "agents", [], True, False),
    ("", ["agents"], "agents-eu", [], True, False),
    ("A_KEY", ["agents"], "agents", [], True, False),
    ("A_KEY", ["agents"], "agents-eu", [], False, False),
    ("A_KEY", ["agents", "agents-eu"], "agents-eu", [], True, False),
    ("A_KEY", ["agents"], "agents", ["simulated"], False, True),  # the key is not read yet
    ("A_KEY", ["agents"], "web", [], False, False),
]


@pytest.mark.parametrize(("key", "classes", "mine", "closed", "takes", "left"), TAKES)
def test_a_runner_takes_what_its_class_may_call(
    region: Region,
    platform_admin: User,
    acme: Tenant,
    key: str,
    classes: list[str],
    mine: str,
    closed: list[str],
    takes: bool,
    left: bool,
) -> None:  # P8
    Provider.objects.update(secret_name=key, worker_classes=classes)
    region.refresh_from_db()
    asked(region, platform_admin, acme)
    taken, more = trying.take(Runner().pk, mine, 5, not_of=closed, now=NOW)
    assert (len(taken), more) == (int(takes), left)


def test_what_is_told_after_it_was_given_up_changes_nothing(region: Region, platform_admin: User, acme: Tenant) -> None:
    row, runner = asked(region, platform_admin, acme), Runner().pk
    trying.take(runner, "agents", 5, not_of=[], now=NOW)
    found = Found(TryStatus.WORKS, "yes", 0.2, 5, 1, 7)
    assert not trying.tell(row.pk, Runner().pk, found, now=NOW), "another runner's"
    late = NOW + dt.timedelta(seconds=trying.LEASE_S)
    duties = {duty.name: duty for duty in Orchestrator().duties}
    assert duties["tries"].work(now=late - dt.timedelta(seconds=1)) == 0
    assert duties["tries"].work(now=late) == 1  # also when nobody looks
    assert not trying.tell(row.pk, runner, found, now=late)
    row.refresh_from_db()
    assert (row.status, row.cost) == (TryStatus.LOST, 0)


def test_a_process_without_a_keeper_calls_nothing_that_needs_a_key(region: Region) -> None:  # P8
    endpoint = Endpoint("simulated", "openai", "test", region.base_url, "HOUSE_KEY")
    with pytest.raises(ProviderUnavailable, match="holds no keys"):
        ModelClients().model(endpoint, "small")


def test_a_disabled_provider_with_a_key_is_not_tried(region: Region, platform_admin: User, acme: Tenant) -> None:
    Provider.objects.update(secret_name="A_KEY", is_enabled=False)
    region.provider.refresh_from_db()
    with pytest.raises(CannotTry, match="disabled"):
        asked(region, platform_admin, acme)
    assert not AuditEntry.objects.exists()


def test_each_person_has_tries_of_their_own_and_one_at_a_time(
    region: Region, platform_admin: User, acme: Tenant, owner: User
) -> None:  # A5
    root = client_of(platform_admin)
    url = try_url(root)
    fields = {"model": "small", "tenant": str(acme.pk)}
    assert root.post(url, fields).status_code == 302
    assert "still under way" in text_of(root.post(url, fields))
    assert "Waiting for a worker" in text_of(root.get(url))
    assert "Call it" not in text_of(root.get(url))
    other = User.objects.create(username="root2", is_staff=True, is_superuser=True)
    page = text_of(client_of(other).get(url))
    assert "Waiting for a worker" not in page
    assert "Call it" in page
    assert client_of(other).post(url, fields).status_code == 302
    refused = client_of(owner).post(url, fields, follow=True)
    assert refused.status_code == 403
    assert client_of(owner).get(url, headers={"HX-Request": "true"}, follow=True).status_code == 403
    assert RegionTry.objects.count() == 2
    # A tenant that the person does not have is no choice.
    wrong = root.post(url, {"model": "", "tenant": "00000000-0000-0000-0000-000000000000"})
    assert "Say which model to call" in text_of(wrong)


def test_watching_costs_few_queries_and_old_tries_go(
    region: Region, platform_admin: User, acme: Tenant, django_assert_num_queries: Any
) -> None:
    root = client_of(platform_admin)
    url = try_url(root)
    asked(region, platform_admin, acme, timezone.now())
    with django_assert_num_queries(5):  # the session, the person, policies, the region, the try
        root.get(url, headers={"HX-Request": "true"})
    RegionTry.objects.update(asked_at=NOW, status=TryStatus.WORKS)
    assert housekeeping.prune(now=NOW + dt.timedelta(days=6))["tries"] == 0
    assert housekeeping.prune(now=NOW + dt.timedelta(days=8))["tries"] == 1
