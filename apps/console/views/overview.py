"""The overview: attention first, then what runs, waits and was finished, the pool, and money."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from django.db.models import F, QuerySet

from apps.console import attention, board
from apps.console.views.base import Page, typed
from apps.swarms.models import Swarm, SwarmStatus
from apps.swarms.models.swarm import SWARM_TERMINAL
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

RUNNING = 25
QUEUED = 15
FINISHED = 10


class Overview(Page):
    """``/``"""

    template_name: ClassVar[str] = "console/overview.html"
    section = "overview"
    title = "Overview"

    @cached_property
    def shown(self) -> list[Tenant]:
        """The tenants that the page is about now."""
        return [self.tenant] if self.tenant else self.tenants

    @cached_property
    def readable(self) -> list[Tenant]:
        granted = {grant.tenant_id for grant in self.principal.grants.values()}
        return [t for t in self.shown if t.pk in granted or self.principal.can(Permission.SWARM_READ, t.pk)]

    @cached_property
    def search(self) -> str:
        return typed(self.request.GET.get("q"))

    @property
    def swarms(self) -> QuerySet[Swarm]:
        found = Swarm.objects.visible_to(self.principal).filter(tenant__in=self.shown).select_related("tenant")
        return found.search(self.search) if self.search else found

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        parts: dict[str, Callable[[], dict[str, Any]]] = {"attention": self.attention}
        if any(self.principal.can(Permission.POOL_READ, t.pk) for t in self.tenants):
            parts["pool"] = self.pool
        if self.readable:
            parts |= {"running": self.running, "queue": self.queue, "finished": self.finished}
        parts["spend"] = self.spend
        return parts

    def context(self) -> dict[str, Any]:
        return {"search": self.search, "part_names": set(self.parts)}

    def attention(self) -> dict[str, Any]:
        found = attention.findings(self.principal, [t.pk for t in self.shown], self.now)
        return {"findings": found, "urgent": sum(1 for finding in found if finding.tone == "bad")}

    def running(self) -> dict[str, Any]:
        active = [SwarmStatus.RUNNING, SwarmStatus.PAUSED, SwarmStatus.STOPPING]
        swarms = list(self.swarms.filter(status__in=active).order_by("-priority", "-started_at")[: RUNNING + 1])
        return {
            "running": board.rows(swarms[:RUNNING], self.principal, in_flight=True),
            "more_running": len(swarms) > RUNNING,
            "can_submit": any(self.principal.can(Permission.SWARM_CREATE, t.pk) for t in self.shown),
            "searched": self.search,
        }

    def queue(self) -> dict[str, Any]:
        order = (F("queue_position").asc(nulls_last=True), "-priority", "queued_at")
        queued = self.swarms.filter(status=SwarmStatus.QUEUED)
        rows = list(queued.order_by(*order)[: QUEUED + 1])
        total = queued.count() if len(rows) > QUEUED else len(rows)
        return {"queued": rows[:QUEUED], "queued_total": total, "queued_more": total - QUEUED, "searched": self.search}

    def finished(self) -> dict[str, Any]:
        swarms = self.swarms.filter(status__in=SWARM_TERMINAL, finished_at__isnull=False)
        return {"finished": board.rows(swarms.order_by("-finished_at")[:FINISHED], self.principal)}

    def pool(self) -> dict[str, Any]:
        return {"gauges": board.gauges()}

    def spend(self) -> dict[str, Any]:
        return {"spending": board.spending(self.shown, self.principal, self.now)}
