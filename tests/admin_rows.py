"""Rows of every model for a tenant, as the pages of the administration would find them."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from typing import Any

from axes.models import AccessAttempt
from django.db import connection, models
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.models import Task as Job
from django_q.signing import SignedPackage

from apps.api.models import IdempotencyKey, RateAllotment
from apps.audit.models import AuditEntry
from apps.costs.models import (
    AccruedHour,
    Budget,
    BudgetAlert,
    BudgetPeriod,
    CentreRule,
    CostCentre,
    ExternalEvent,
    ExternalReservation,
    LedgerEntry,
    Price,
    Rate,
    Reservation,
    Statement,
    StatementExport,
    StatementLine,
)
from apps.events.models import Consumer, Event
from apps.execution.models import Archive, Artifact, Attempt, Runner, Tick
from apps.observability.models import WatchdogRun
from apps.privacy.models import DataSubject
from apps.providers.models import Breaker, Provider, Region, ResidencyRule, SecretState
from apps.swarms.models import Agent, AgentOverride, Holding, Step, Swarm, Task
from apps.tenants.models import (
    AccessPolicy,
    ApiToken,
    GroupRule,
    Identity,
    IdentityProvider,
    Membership,
    SwarmGrant,
    Tenant,
    User,
)
from apps.tenants.roles import Role
from apps.webhooks.models import Delivery, DeliveryAttempt, Webhook
from portal.money import NANO

DOLLAR = NANO


def make_swarm(tenant: Tenant, name: str, **fields: Any) -> Swarm:
    """A swarm with one agent, one step and one failed task that was tried once."""
    swarm = Swarm.objects.create(
        tenant=tenant,
        name=name,
        spec={"swarm": name, "tasks": []},
        **{"tasks_total": 1, "tasks_failed": 1, "status": "failed", **fields},
    )
    agent = Agent.objects.create(swarm=swarm, name="writer", model="simulated:small", instructions="Write.")
    step = Step.objects.create(swarm=swarm, agent=agent, name=f"{name}-step", position=0, prompt="Say {{ item }}")
    Task.objects.create(
        swarm=swarm, step=step, agent=agent, status="failed", failure_code="agent_error", error=f"{name} broke"
    )
    return swarm


def make_rows(tenant: Tenant, count: int) -> None:
    """``count`` rows of every model that has rows per tenant, all with the tenant's slug in what a page shows."""
    slug, now = tenant.slug, timezone.now()
    for n in range(count):
        name = f"{slug}-{n}-{uuid.uuid4().hex[:6]}"
        user = User.objects.create(username=f"{name}-user", email=f"{name}@example.test")
        Membership.objects.create(user=user, tenant=tenant, role=Role.VIEWER)
        ApiToken.objects.create(user=user, tenant=tenant)
        subject = DataSubject.objects.create(tenant_id=tenant.pk, reference=f"{name}-person")
        swarm = make_swarm(tenant, f"{name}-swarm", subject_id=subject.pk, submitted_by=user)
        SwarmGrant.objects.create(
            tenant=tenant, swarm_id=swarm.pk, user=user, gives="swarm:terminate", reason=f"{name}-grant"
        )
        AccessPolicy.objects.create(tenant=tenant, name=f"{name}-policy", actions=["swarm:delete"])
        task = swarm.tasks.get()
        attempt = Attempt.objects.create(
            id=uuid.uuid4(), task=task, number=1, started_at=now, outcome="failed", error=f"{name} broke", cost=5
        )
        Archive.objects.create(
            swarm=swarm, tenant=tenant, key=f"{name}.json.gz", size=2_000, sha256="0" * 64, stored_at=now
        )
        content = f"{name} was here".encode()
        Artifact.objects.create(
            swarm=swarm, tenant=tenant, task=task, attempt_id=attempt.pk, name=f"{name}-file.txt",
            media_type="text/plain", content=content, size=len(content), sha256=hashlib.sha256(content).hexdigest(),
        )  # fmt: skip
        budget = Budget.objects.create(tenant=tenant, name=f"{name}-budget", limit=10 * DOLLAR)
        period = BudgetPeriod.objects.create(
            budget=budget,
            key=f"{now:%Y-%m}",
            starts_at=now - dt.timedelta(days=1),
            ends_at=now + dt.timedelta(days=1),
            limit=10 * DOLLAR,
            ceiling=10 * DOLLAR,
            spent=9 * DOLLAR,
        )
        BudgetAlert.objects.create(period=period, level=90, owed=9 * DOLLAR, limit=10 * DOLLAR)
        call = {
            "tenant_id": tenant.pk,
            "subject_id": subject.pk,
            "swarm_id": swarm.pk,
            "task_id": task.pk,
            "attempt_id": attempt.pk,
            "agent": f"{name}-agent",
            "model": "simulated:small",
            "amount": 1_000,
            "period_ids": [period.pk],
        }
        Reservation.objects.create(**call, expires_at=now + dt.timedelta(seconds=30))
        entry = LedgerEntry.objects.create(**call, kind="llm", note=f"{name}-note")
        StatementExport.objects.create(
            tenant_id=tenant.pk,
            period=name[-6:],
            format="csv",
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            size=len(name),
            version=f"{name}-v",
            content=name.encode(),
        )
        make_statement(tenant)
        ExternalEvent.objects.create(
            tenant_id=tenant.pk,
            event_id=f"{name}-event",
            content=uuid.uuid4(),
            at=now,
            booked_at=now,
            amount=1_000,
            entry_id=entry.pk,
        )
        held = ExternalReservation.objects.create(tenant_id=tenant.pk, agent=f"{name}-agent", run="r", amount=1_000)
        Reservation.objects.create(
            id=held.pk, tenant_id=tenant.pk, amount=1_000, run="r", period_ids=[], expires_at=now + dt.timedelta(days=1)
        )
        Price.objects.create(
            tenant=tenant, provider="simulated", model=f"{name}-model", input_per_mtok=DOLLAR, output_per_mtok=DOLLAR
        )
        Rate.objects.create(
            tenant=tenant,
            kind="infrastructure",
            price=DOLLAR,
            effective_from=now - dt.timedelta(hours=n + 1),
            note=f"{name}-rate",
        )
        centre = CostCentre.objects.create(tenant=tenant, code=name, name=f"{name}-centre")
        CentreRule.objects.create(centre=centre, agent=f"{name}-agent")
        AgentOverride.objects.create(tenant=tenant, agent=f"{name}-agent", max_replicas=2, note=f"{name}-note")
        Holding.objects.create(swarm=swarm, tenant=tenant, agents=2, memory_gb=4, cpu=1, since=now, until=now)
        hook = Webhook.objects.create(
            tenant=tenant, name=f"{name}-hook", url="https://x.example", signing_secret="whsec_x"
        )
        delivery = Delivery.objects.create(
            webhook=hook, tenant=tenant, event_id=n, kind="task.failed", swarm_id=swarm.pk, body=f"{name}-body"
        )
        DeliveryAttempt.objects.create(delivery=delivery, number=1, status_code=500, text=f"{name}-answer")
        Event.objects.create(
            kind="task.failed", tenant_id=tenant.pk, swarm_id=swarm.pk, task_id=task.pk, data={"name": name}
        )
        AuditEntry.objects.create(
            actor_kind="user",
            actor=str(user.pk),
            action="swarm:update",
            resource_kind="swarm",
            resource_id=str(swarm.pk),
            tenant_id=tenant.pk,
            reason=f"{name}-reason",
        )


def make_statement(tenant: Tenant) -> Statement:
    """The tenant's next closed month, from 2001 on, which no ledger entry of a test is in."""
    months = Statement.objects.filter(tenant=tenant).count()
    starts, ends = (dt.datetime(2001 + n // 12, n % 12 + 1, 1, tzinfo=dt.UTC) for n in (months, months + 1))
    statement = Statement.objects.create(
        tenant=tenant,
        period=f"{starts:%Y-%m}",
        starts_at=starts,
        ends_at=ends,
        time_zone="UTC",
        tenant_slug=tenant.slug,
        tenant_name=tenant.name,
        closed_by_kind="command",
        closed_by="test",
        closing_since=ends,
    )
    StatementLine.objects.create(
        statement=statement, kind="llm", agent=f"{tenant.slug}-agent", entries=1, input_tokens=1, output_tokens=1,
        amount=1_000,
    )  # fmt: skip
    statement.finish(total=1_000, entries=1, at=timezone.now())
    return statement


def make_platform_rows(count: int) -> None:
    """``count`` rows of every model whose rows belong to the platform."""
    now = timezone.now()
    for n in range(count):
        name = uuid.uuid4().hex
        made = AccruedHour.objects.count()
        AccruedHour.objects.create(kind="storage", hour=now - dt.timedelta(hours=made + n), accrued_at=now)
        provider = Provider.objects.create(name=f"provider-{name}")
        region = Region.objects.create(provider=provider, name="east", base_url="http://127.0.0.1:9999/v1")
        Breaker.objects.create(region=region, state="open", cause="5 calls failed.")
        SecretState.objects.create(name=f"KEY_{name}", worker_class="agents", backend="environment")
        vouching = IdentityProvider.objects.create(
            slug=f"idp-{name}", name=f"idp-{name}", issuer=f"https://{name}.example", client_id="desk"
        )
        person, place = User.objects.first(), Tenant.objects.first()
        assert person
        assert place
        ResidencyRule.objects.create(tenant=place, provider=provider, note=name).regions.add(region)
        GroupRule.objects.create(provider=vouching, group=f"group-{name}", tenant=place, role=Role.VIEWER)
        Identity.objects.create(provider=vouching, user=person, issuer=vouching.issuer, subject=name)
        AccessAttempt.objects.create(username=name, ip_address="192.0.2.7", failures_since_start=n, user_agent="x")
        Runner.objects.create(node=f"node-{name}", pid=1, concurrency=200, in_flight=3)
        Tick.objects.create(leader=f"leader-{name}", did={"admitted": 2})
        WatchdogRun.objects.create(ok=False, findings={"leases": {"about": "Every lease runs.", "faults": ["one"]}})
        Consumer.objects.create(name=f"consumer-{name}")
        Schedule.objects.create(name=f"job-{name}", func="apps.execution.tasks.run_agents")
        OrmQ.objects.create(
            key="ops",
            payload=SignedPackage.dumps(
                {"id": name, "name": f"queued-{name}", "func": "a.b", "args": (), "kwargs": {}}
            ),
            lock=now,
        )
        for success in (True, False):
            Job.objects.create(
                id=uuid.uuid4().hex,
                name=f"finished-{name}",
                func="a.b",
                started=now,
                stopped=now,
                success=success,
                result="a traceback" if not success else None,
                args=(),
                kwargs={},
            )
        RateAllotment.objects.create(policy="token", who=f"token {name}", window=1, taken=60)
        IdempotencyKey.objects.create(who="user x", endpoint="POST /swarms/", key=name, request_hash="0" * 64)
    analyse()


def analyse() -> None:
    """Statistics as autovacuum keeps them, so that plans are those of a live database."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def some_row(model: type[models.Model]) -> models.Model | None:
    """Any row of a model that its page can show."""
    rows = model._default_manager.all()
    if model._meta.label in ("django_q.Success", "django_q.Failure"):
        rows = rows.filter(success=model._meta.label.endswith("Success"))
    return rows.order_by("-pk").first()
