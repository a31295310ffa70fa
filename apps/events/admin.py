"""The event log and how far its readers have come."""

from __future__ import annotations

from django.contrib import admin
from unfold.contrib.filters.admin import FieldTextFilter

from apps.events.models import Consumer, Event, Horizon
from apps.tenants.admin_scoping import PlatformModelAdmin, TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import facts_column, json_column, reference_column, short_column, when_column
from portal.admin_fields import DateRangeFilter


@admin.register(Event)
class EventAdmin(ReadOnly, TenantModelAdmin):
    about = "Everything that happened, in order. Each row was written together with the change it tells of."
    read_permission = Permission.SWARM_READ
    swarm_path = "swarm_id"
    huge = True
    is_audited = False
    references = {"tenant_id": "tenants.Tenant", "swarm_id": "swarms.Swarm", "task_id": "swarms.Task"}
    search_ids = ("swarm_id", "task_id")
    list_display = ("number", "when", "kind", "tenant_name", "swarm", "task", "facts")
    list_filter = (TenantFilter, ("kind", FieldTextFilter), ("at", DateRangeFilter))
    search_fields = ("^kind",)
    search_help_text = "Id of a swarm or task, beginning of a kind"
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("number", "when", "kind", "tenant_name", "swarm", "task", "told")}),)
    number = short_column("id", "Event")
    when = when_column("at", "When")
    tenant_name = reference_column("tenant_id", "Tenant")
    swarm = reference_column("swarm_id", "Swarm")
    task = reference_column("task_id", "Task")
    facts = facts_column("data", "Data")
    told = json_column("data", "Data")


@admin.register(Consumer)
class ConsumerAdmin(ReadOnly, PlatformModelAdmin):
    about = "Durable readers of the event log, each with the position up to which everything is done."
    empty_hint = "No consumer has read the log yet."
    is_audited = False
    list_display = ("name", "event_id", "moved")
    search_fields = ("name",)
    ordering = ("name",)
    fieldsets = ((None, {"fields": ("name", "event_id", "moved")}),)
    moved = when_column("updated_at", "Last moved")


@admin.register(Horizon)
class HorizonAdmin(ReadOnly, PlatformModelAdmin):
    about = "How far each log can be read: up to here, every transaction that wrote to it is decided."
    is_audited = False
    list_display = ("log", "safe_id", "mark_id", "mark_xact")
    ordering = ("log",)
    fieldsets = ((None, {"fields": ("log", "safe_id", "mark_id", "mark_xact")}),)
