"""The resource pool: how large it is, what is taken of it, and what swarms held."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString

from apps.swarms.models import Holding, ResourcePool
from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import Card, ReadOnly, list_url
from portal.admin_columns import (
    BAD,
    BUSY,
    GOOD,
    NOTHING,
    WARN,
    label,
    link_column,
    moment,
    share,
    when_column,
)
from portal.admin_fields import DateRangeFilter


@admin.register(ResourcePool)
class ResourcePoolAdmin(PlatformModelAdmin):
    about = "What all swarms share. A total cannot go below what is in use; swarms that wait start when there is room."
    read_permission = Permission.POOL_READ
    write_permission = Permission.POOL_UPDATE
    audit_as = "pool"
    labels: ClassVar[dict[str, str]] = {
        "agents_total": "Agents",
        "memory_gb_total": "Memory, in GB",
        "cpu_total": "CPU, in cores",
        "swarms_total": "Swarms at once",
    }
    list_display = ("name", "agents", "memory", "cpu", "swarms")
    fieldsets = (
        ("In use now", {"fields": (("agents", "memory"), ("cpu", "swarms"))}),
        ("Totals", {"fields": (("agents_total", "memory_gb_total"), ("cpu_total", "swarms_total"))}),
    )
    readonly_fields = ("agents", "memory", "cpu", "swarms")

    @admin.display(description="Pool")
    def name(self, pool: ResourcePool) -> str:
        return str(pool)

    @admin.display(description="Agents")
    def agents(self, pool: ResourcePool) -> SafeString:
        return self._used(pool, "agents", "")

    @admin.display(description="Memory")
    def memory(self, pool: ResourcePool) -> SafeString:
        return self._used(pool, "memory_gb", " GB")

    @admin.display(description="CPU")
    def cpu(self, pool: ResourcePool) -> SafeString:
        return self._used(pool, "cpu", " cores")

    @admin.display(description="Swarms at once")
    def swarms(self, pool: ResourcePool) -> SafeString:
        return self._used(pool, "swarms", "")

    def _used(self, pool: ResourcePool, name: str, unit: str) -> SafeString:
        usage = pool.utilisation()[name]
        used, total = float(usage.used), float(usage.total)
        return share(used, total, f"{used:g} of {total:g}{unit} ({usage.percent:g} %)", bad_at=0.95)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ResourcePool]:
        """Locked while its form is saved, so that what is in use cannot grow behind the check."""
        pool: models.QuerySet[ResourcePool] = super().get_queryset(request)
        saving = request.method == "POST" and request.resolver_match and request.resolver_match.url_name
        return pool.select_for_update() if saving == "swarms_resourcepool_change" else pool

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def card(self, request: HttpRequest) -> Card | None:
        pool = ResourcePool.objects.filter(pk=1).first()
        if pool is None:
            return None
        usage = pool.utilisation()
        fullest = max(usage, key=lambda name: usage[name].percent)
        word = {"memory_gb": "memory", "cpu": "CPU"}.get(fullest, fullest)
        percent = usage[fullest].percent
        tone = BAD if percent >= 95 else WARN if percent >= 80 else GOOD
        return Card("Resource pool", f"{percent:g} %", f"of {word}, the scarcest", list_url(ResourcePool), tone)


@admin.register(Holding)
class HoldingAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "What swarms held of the pool, and how long: the agent-hours that infrastructure is charged by. A paused swarm "
        "goes on holding."
    )
    empty_hint = "A row appears when a swarm starts."
    read_permission = Permission.COST_READ
    is_audited = False
    huge = True
    list_display = ("swarm_link", "tenant_link", "agents", "memory", "cores", "began", "ended", "agent_hours")
    list_filter = (TenantFilter, ("since", DateRangeFilter))
    search_fields = ("swarm__name",)
    search_ids = ("swarm_id",)
    search_help_text = "Id or name of a swarm"
    list_select_related = ("swarm", "tenant")
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("swarm_link", "tenant_link", "agents", "memory", "cores")}),
        ("Time", {"fields": ("began", "ended", "agent_hours")}),
    )
    swarm_link = link_column("swarm", "Swarm")
    tenant_link = link_column("tenant", "Tenant")
    began = when_column("since", "Since")

    @admin.display(description="Memory")
    def memory(self, holding: Holding) -> str:
        return f"{holding.memory_gb.normalize():f} GB"

    @admin.display(description="CPU")
    def cores(self, holding: Holding) -> str:
        return f"{holding.cpu.normalize():f} cores"

    @admin.display(description="Until", ordering="until")
    def ended(self, holding: Holding) -> SafeString | str:
        return label("still held", BUSY) if holding.until is None else moment(holding.until)

    @admin.display(description="Agent-hours")
    def agent_hours(self, holding: Holding) -> str:
        if holding.until is None:
            return NOTHING
        return f"{holding.agents * (holding.until - holding.since).total_seconds() / 3600:,.3f}"
