"""The demo: seeded once, left alone afterwards, and a trickle of swarms that its budgets can carry."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import random
import signal
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.budgets import Standing
from apps.costs.models import Budget, Price
from apps.demo import swarms, traffic
from apps.demo.seeding import POOL, TENANTS
from apps.providers.models import Provider, Region
from apps.swarms.models import ResourcePool, Swarm
from apps.swarms.specs import parse
from apps.tenants.models import Membership, Tenant, User
from portal.money import NANO

pytestmark = pytest.mark.django_db

EAST, WEST = "sim-east=http://127.0.0.1:9001/v1", "sim-west=http://127.0.0.1:9002/v1"


def seed(*arguments: str, **options: Any) -> str:
    """Without a past: tests.test_demo_history looks at that."""
    out = io.StringIO()
    regions = [part for url in (EAST, WEST) for part in ("--region-url", url)]
    options = {"password": "correct horse", "history": False, **options}
    call_command("seed_demo", *(arguments or regions), stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def seeded() -> None:
    seed()


# -- seeding -----------------------------------------------------------------------------------------------------------


def test_the_demo_has_its_tenants_budgets_people_and_regions(seeded: None) -> None:
    facts = {
        (b.tenant.slug, b.period, b.enforcement, b.scope): b.limit for b in Budget.objects.select_related("tenant")
    }
    assert facts["acme", "monthly", "hard", "tenant"] == 50 * NANO
    assert facts["widget", "daily", "hard", "tenant"] == 10 * NANO
    assert facts["trial", "run", "hard", "tenant"] == NANO // 2
    assert "soft" in {enforcement for _, _, enforcement, _ in facts}
    zones = dict(Tenant.objects.values_list("slug", "time_zone"))
    assert (zones["acme"], zones["widget"]) == ("America/New_York", "Europe/Berlin")
    users = {user.username: user for user in User.objects.all()}
    assert set(users) == {"admin", "operator", "finance", "compliance", "viewer"}
    assert all(user.is_staff and user.check_password("correct horse") for user in users.values())
    assert [name for name, user in users.items() if user.is_superuser] == ["admin"]
    assert dict(Region.objects.values_list("name", "base_url")) == {
        "sim-east": "http://127.0.0.1:9001/v1",
        "sim-west": "http://127.0.0.1:9002/v1",
    }
    provider = Provider.objects.get()
    assert (provider.name, provider.kind, provider.secret_name) == ("simulated", "openai_compatible", "")
    assert Price.objects.filter(tenant=None, provider="simulated", model__in=["small", "large"]).count() == 2
    assert ResourcePool.objects.get().agents_total == POOL["agents_total"]


def test_a_second_run_changes_nothing(seeded: None) -> None:
    before = snapshot()
    assert "Nothing to do" in seed()
    assert snapshot() == before


def snapshot() -> list[Any]:
    models = (Tenant, User, Membership, Budget, Price, Provider, Region, ResourcePool, AuditEntry)
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_what_people_changed_stays_changed(seeded: None) -> None:
    Budget.objects.filter(tenant__slug="acme", enforcement="soft").delete()
    Budget.objects.filter(tenant__slug="acme").update(limit=7)
    Tenant.objects.filter(slug="widget").update(name="Renamed", weight=9)
    Membership.objects.filter(user__username="viewer").delete()
    User.objects.get(username="finance").memberships.filter(tenant__slug="trial").update(role="viewer")
    viewer = User.objects.get(username="viewer")
    viewer.set_password("another one")
    viewer.save()
    Price.objects.filter(model="large").delete()
    Region.objects.filter(name="sim-west").update(base_url="https://elsewhere.example/v1", is_enabled=False)
    ResourcePool.objects.update(agents_total=77)
    before = snapshot()
    seed()
    assert snapshot() == before


def test_regions_on_this_machine_follow_the_ports_of_today(seeded: None) -> None:
    seed("--region", "sim-east=http://127.0.0.1:9555/v1", "--region", "sim-west=http://127.0.0.1:9002/v1")
    assert Region.objects.get(name="sim-east").base_url == "http://127.0.0.1:9555/v1"


def test_without_a_password_a_random_one_is_printed_once() -> None:
    text = seed(password="")
    password = text.strip().rsplit(" ", 1)[-1]
    assert User.objects.get(username="viewer").check_password(password)
    assert "password" not in seed(password="")


@pytest.mark.parametrize("wrong", ["sim-east", "=http://x/v1", "sim-east=ftp://x/v1", "sim-east=http://"])
def test_a_wrong_region_is_one_clear_line(wrong: str) -> None:
    with pytest.raises(CommandError, match="expected NAME=URL"):
        seed("--region-url", wrong)
    assert not Tenant.objects.exists()


def test_budgets_of_the_demo_are_audited(seeded: None) -> None:
    budgets = sum(len(tenant.budgets) for tenant in TENANTS)
    assert AuditEntry.objects.filter(resource_kind="budget", actor="seed_demo").count() == budgets


# -- traffic -----------------------------------------------------------------------------------------------------------


def test_every_swarm_of_the_demo_is_a_valid_spec() -> None:
    kinds = set()
    for spec in itertools.islice(swarms.draws(random.Random(1)), 150):
        kinds.add(parse(spec).swarm)
    assert {"topic-brief", "flaky-brief", "broken-import", "greedy-brief"} < kinds
    assert len(kinds) >= 4 + len(swarms.examples())


def test_the_same_seed_draws_the_same_swarms() -> None:
    first, again, other = (list(itertools.islice(swarms.draws(random.Random(n)), 5)) for n in (1, 1, 2))
    assert first == again != other


def run_traffic(**options: Any) -> None:
    call_command("demo_traffic", **{"every": 0, "count": 12, "seed": 4, **options})


def test_traffic_submits_varied_swarms_that_fit_their_tenants(seeded: None) -> None:
    run_traffic(count=traffic.MOST_WAITING)
    submitted = Swarm.objects.select_related("tenant", "submitted_by")
    assert submitted.count() == traffic.MOST_WAITING
    assert len({swarm.name for swarm in submitted}) > 2
    assert len({swarm.priority for swarm in submitted}) > 1
    assert len({swarm.tenant.slug for swarm in submitted}) > 1
    assert len({swarm.subject_id for swarm in submitted}) > 1
    assert {swarm.submitted_by.username for swarm in submitted if swarm.submitted_by} == {"operator"}
    assert all(s.agents_asked <= (s.tenant.max_agents or 60) for s in submitted)


def test_traffic_skips_its_turn_while_many_wait(seeded: None) -> None:
    run_traffic(count=traffic.MOST_WAITING + 5)
    assert Swarm.objects.count() == traffic.MOST_WAITING


def test_traffic_without_demo_tenants_says_what_to_do() -> None:
    assert traffic.Traffic(1).submit_one()[1].endswith("manage.py seed_demo makes them")


def test_traffic_needs_no_operator(seeded: None) -> None:
    User.objects.filter(username="operator").update(is_active=False)
    run_traffic(count=1)
    assert Swarm.objects.get().submitted_by is None


def test_traffic_leaves_inactive_tenants_alone(seeded: None) -> None:
    Tenant.objects.exclude(slug="widget").update(is_active=False)
    run_traffic(count=4)
    assert {swarm.tenant.slug for swarm in Swarm.objects.select_related("tenant")} == {"widget"}


MONTH = dt.timedelta(days=30)


@pytest.mark.parametrize(
    ("age", "spent", "too_fast"),
    [
        (0.0, 0.0, False),
        (0.0, 0.09, False),  # a start is never slow
        (0.0, 0.11, True),
        (0.5, 0.5, False),
        (0.5, 0.6, True),
        (1.0, 0.94, False),
        (1.0, 0.96, True),  # the last twentieth is left to people who try things
    ],
)
def test_spending_keeps_pace_with_the_period(age: float, spent: float, too_fast: bool) -> None:
    now = timezone.now()
    start = now - MONTH * age
    budget = Budget(limit=100 * NANO)
    standing = Standing(budget.pk, "2026-11", "", start, start + MONTH, 100 * NANO, round(spent * 100 * NANO), 0, 1)
    assert traffic.is_too_fast(standing, now=now) is too_fast


@pytest.mark.parametrize("wrong", [{"every": -1}, {"count": -1}, {"every": 0, "count": 0}])
def test_wrong_options_are_one_clear_line(wrong: dict[str, int]) -> None:
    with pytest.raises(CommandError):
        run_traffic(**wrong)


def test_sigterm_ends_a_waiting_trickle_at_once(seeded: None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    started = dt.datetime.now(dt.UTC)
    try:
        run_traffic(every=3600, count=0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=10)
    assert signal.getsignal(signal.SIGTERM) is handler
