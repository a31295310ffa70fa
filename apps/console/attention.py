"""What needs a person: each finding says what is wrong and what to do about it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import CharField, QuerySet
from django.db.models.functions import Cast
from django.urls import reverse
from django.utils.timesince import timesince

from apps.console.board import BudgetLine, budget_lines
from apps.console.visible import may_see_providers
from apps.costs.models import Budget, Period, Scope
from apps.execution.models import Runner, Tick
from apps.observability.models import WatchdogRun
from apps.providers.models import (
    BackendState,
    Breaker,
    BreakerState,
    HealthStatus,
    Provider,
    SecretStanding,
    SecretState,
)
from apps.swarms.models import Swarm, SwarmStatus
from apps.tenants.access import Principal
from apps.tenants.roles import Permission
from portal.money import usd_label

FAILED_WITHIN = dt.timedelta(hours=24)
QUEUED_TOO_LONG = dt.timedelta(minutes=5)
TICK_TOO_OLD = dt.timedelta(seconds=15)
RUNNER_TOO_SILENT = dt.timedelta(seconds=15)
WATCHDOG_TOO_OLD = dt.timedelta(minutes=5)
EACH = 4
"""How many findings of one kind are listed; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``tone`` is bad (something is broken or stopped) or wait (it will be, or work is held up)."""

    tone: str
    icon: str
    title: str
    detail: str = ""
    advice: str = ""
    url: str = ""
    at: dt.datetime | None = None
    tenant: str = ""
    command: str = ""


def findings(principal: Principal, tenant_ids: Collection[uuid.UUID], now: dt.datetime) -> list[Finding]:
    """All that needs attention in these tenants, and of the platform; the worst first. At most fifteen queries."""
    swarms = Swarm.objects.visible_to(principal).filter(tenant__in=tenant_ids).select_related("tenant")
    found = [
        *_platform(swarms.unfinished().exists(), now),
        *_watchdog(principal, now),
        *_providers(principal),
        *_failed(swarms, now),
        *_queued(swarms, now),
        *_budgets(principal, tenant_ids, now),
    ]
    return sorted(found, key=lambda finding: finding.tone != "bad")


def _platform(work: bool, now: dt.datetime) -> list[Finding]:
    found = []
    tick = Tick.objects.order_by("-id").first()
    if tick is None or now - tick.at > TICK_TOO_OLD:
        found.append(
            Finding(
                "bad",
                "heart_broken",
                "No orchestrator is running" if tick is None else "The orchestrator has stopped ticking",
                "Nothing queued starts, retries are not released, and expired leases are not freed.",
                "Start one; a stand-by takes over by itself:",
                at=tick.at if tick else None,
                command="manage.py orchestrate",
            )
        )
    elif not tick.ok:
        found.append(
            Finding(
                "bad",
                "heart_broken",
                "The orchestrator's last round failed",
                tick.error.strip().splitlines()[-1] if tick.error.strip() else "",
                "It tries again within 5 seconds. If this stays, read its log.",
                at=tick.at,
            )
        )
    alive = Runner.objects.filter(finished_at=None, heartbeat_at__gte=now - RUNNER_TOO_SILENT)
    if not alive.exists():
        found.append(
            Finding(
                "bad" if work else "wait",
                "power_off",
                "No runner is alive",
                "Ready tasks wait until one is." if work else "Nothing is waiting for one now.",
                "Start a worker:",
                command="manage.py work --cluster agents",
            )
        )
    return found


def _watchdog(principal: Principal, now: dt.datetime) -> list[Finding]:
    run = WatchdogRun.objects.order_by("-id").first()
    if run is None or run.ok or now - run.at > WATCHDOG_TOO_OLD:
        return []
    found = []
    for finding in run.findings.values():
        faults = finding.get("faults", [])
        # The lines name what they are about, whosever it is.
        detail = " ".join(faults[:2]) if principal.everything else ""
        more = len(faults) - 2
        found.append(
            Finding(
                "bad",
                "rule",
                str(finding.get("about") or "The system is not whole"),
                f"{detail} And {more} more." if detail and more > 0 else detail,
                "The watchdog looks again within a minute. If this stays, see its runs in the administration.",
                reverse("admin:observability_watchdogrun_changelist") if principal.everything else "",
                run.at,
            )
        )
    return found[:EACH]


def _providers(principal: Principal) -> list[Finding]:
    """Providers that failed over or are down, and regions of others that get no calls; for platform admins, keys."""
    if not may_see_providers(principal):
        return []
    page = reverse("console:providers")
    found = []
    for provider in Provider.objects.enabled().exclude(health=HealthStatus.HEALTHY)[:EACH]:
        url = f"{page}#provider-{provider.pk}"
        if provider.health == HealthStatus.CRITICAL:
            title, detail = f"No region of {provider.name} answers", "Its calls fail, and are tried again."
            advice = "Its regions say why; the primary is tried all the same, and probed."
            found.append(Finding("bad", "cloud_off", title, detail, advice, url, provider.health_since))
        else:
            title = f"{provider.name} has failed over to {provider.serving}"
            detail = "Its primary region is left alone until a probe finds it back."
            found.append(Finding("wait", "cloud_sync", title, detail, "", url, provider.health_since))
    left_alone = Breaker.objects.exclude(state=BreakerState.CLOSED).filter(
        region__is_enabled=True, region__provider__is_enabled=True, region__provider__health=HealthStatus.HEALTHY
    )
    first = list(left_alone.select_related("region__provider").order_by("-since")[: EACH + 1])
    found += [
        Finding(
            "wait",
            "power_off",
            f"{breaker.region} gets no calls",
            f"{breaker.cause.rstrip('.')}.",
            "Close its breaker when it is well again." if breaker.is_held else "It is tried again by itself.",
            f"{page}#region-{breaker.pk}",
            breaker.since,
        )
        for breaker in first[:EACH]
    ]
    if len(first) > EACH:
        more = left_alone.count() - EACH
        found.append(Finding("wait", "power_off", f"{more} more regions get no calls", url=page))
    return [*found, *(_keys(f"{page}#part-keys") if principal.everything else ())]


def _keys(url: str) -> list[Finding]:
    states = list(SecretState.objects.filter(name__in=Provider.objects.with_keys().values("secret_name")))
    found = [
        Finding(
            "bad",
            "key_off",
            f"The key {state.name} of class {state.worker_class} is {state.standing.label.lower()}",
            state.last_error,
            "Put another one into the secrets backend, then rotate."
            if state.standing == SecretStanding.REFUSED
            else "Put it into the secrets backend: processes try again by themselves.",
            url,
            state.refused_at or state.lacking_since or state.failed_at,
        )
        for state in states
        if state.standing in (SecretStanding.REFUSED, SecretStanding.MISSING)
    ][:EACH]
    used = {state.backend for state in states}
    return found + [
        Finding(
            "bad",
            "cloud_off",
            f"The secrets backend {backend} is down",
            backend.last_error,
            "Keys that are held go on; processes that start now get none. Repair it.",
            url,
            backend.down_since,
        )
        for backend in BackendState.objects.exclude(down_since=None).filter(name__in=used)[:EACH]
    ]


def _failed(swarms: QuerySet[Swarm], now: dt.datetime) -> list[Finding]:
    recent = swarms.filter(status=SwarmStatus.FAILED, finished_at__gte=now - FAILED_WITHIN).order_by("-finished_at")
    first = list(recent[: EACH + 1])
    found = [
        Finding(
            "bad",
            "error",
            f"{swarm.name} failed",
            swarm.status_reason,
            "Raise the budget's limit or wait for its next period, then retry it."
            if swarm.stop_code
            else "Open it to see the errors, then retry its failed tasks.",
            reverse("console:swarm", args=[swarm.pk]),
            swarm.finished_at,
            swarm.tenant.name,
        )
        for swarm in first[:EACH]
    ]
    if len(first) > EACH:
        more = recent.count() - EACH
        found.append(
            Finding(
                "bad",
                "error",
                f"{more} more failed in the last 24 hours",
                url=reverse("console:swarms") + "?status=failed",
                advice="Look for an error that they share.",
            )
        )
    return found


def _queued(swarms: QuerySet[Swarm], now: dt.datetime) -> list[Finding]:
    late = swarms.filter(status=SwarmStatus.QUEUED, queued_at__lte=now - QUEUED_TOO_LONG).order_by("queued_at")
    first = list(late[: EACH + 1])
    found = [
        Finding(
            "wait",
            "schedule",
            f"{swarm.name} has waited {timesince(swarm.queued_at, now, depth=1)}",
            swarm.queue_reason or "No reason has been recorded: the orchestrator has not looked at it yet.",
            "Make room, or terminate what is not needed.",
            reverse("console:swarm", args=[swarm.pk]),
            swarm.queued_at,
            swarm.tenant.name,
        )
        for swarm in first[:EACH]
    ]
    if len(first) > EACH:
        more = late.count() - EACH
        found.append(
            Finding(
                "wait",
                "schedule",
                f"{more} more have waited over 5 minutes",
                url=reverse("console:swarms") + "?status=queued",
                advice="The queue below says what each waits for.",
            )
        )
    return found


def _budgets(principal: Principal, tenant_ids: Collection[uuid.UUID], now: dt.datetime) -> list[Finding]:
    readable = [pk for pk in tenant_ids if principal.can(Permission.BUDGET_READ, pk)]
    if not readable:
        return []
    # A run's own budget is of interest while its swarm is.
    runs = Swarm.objects.filter(tenant__in=readable).unfinished().annotate(ref=Cast("pk", CharField())).values("ref")
    watched = Budget.objects.active().filter(tenant__in=readable).select_related("tenant")
    lasting = watched.lasting()
    own = watched.filter(scope=Scope.SWARM, period=Period.RUN, target__in=runs)
    near = [line for line in budget_lines([*lasting, *own], now) if line.standing.is_near]
    near.sort(key=lambda line: -line.standing.percent)
    return [_near_limit(line) for line in near[: 2 * EACH]]


def _near_limit(line: BudgetLine) -> Finding:
    budget, stand = line.budget, line.standing
    if budget.is_hard:
        advice = "Calls that do not fit are refused. Raise the limit, or wait for the next period."
    else:
        advice = "It is a soft budget: work goes on. Check what is spending."
    detail = f"{usd_label(line.committed)} of {usd_label(stand.limit)} spent or reserved"
    if stand.ends_at:
        detail += f"; the period ends {stand.ends_at.astimezone(dt.UTC):%d %b %H:%M} UTC"
    return Finding(
        line.tone,
        "savings",
        f"Budget “{budget.name}” is {stand.word}",
        f"{detail}.",
        advice,
        tenant=budget.tenant.name,
    )
