"""The audit trail."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import FieldTextFilter

from apps.audit.models import AuditEntry
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly, page_url
from portal.admin_columns import BAD, GOOD, json_column, reference_column, short, text_column, when_column, yes_column
from portal.admin_fields import DateRangeFilter


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "Who did what to which resource, when and from where. Rows are only ever added; the database refuses the rest."
    )
    read_permission = Permission.AUDIT_READ
    huge = True
    is_audited = False
    references = {"tenant_id": "tenants.Tenant", "actor": "tenants.User"}
    list_display = ("when", "who", "action", "resource", "tenant_name", "result", "reason_text", "address")
    list_filter = (
        TenantFilter,
        ("action", FieldTextFilter),
        ("actor", FieldTextFilter),
        "success",
        ("at", DateRangeFilter),
    )
    search_fields = ("^action", "=resource_id", "=actor")
    search_help_text = "Id of a resource or person, beginning of an action"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("when", "who", "actor_kind", "actor", "address")}),
        ("Act", {"fields": ("action", "resource", "resource_in_full", "tenant_name")}),
        ("Outcome", {"fields": ("result", "reason_full", "details_text")}),
    )
    when = when_column("at", "When")
    tenant_name = reference_column("tenant_id", "Tenant")
    result = yes_column("success", "Result", yes=("allowed", GOOD), no=("refused", BAD))
    reason_text = text_column("reason", "Reason", limit=80)
    reason_full = text_column("reason", "Reason")
    details_text = json_column("details", "Details")

    def referenced_id(self, row: Any, name: str) -> Any:
        """People act by the id of their account; a token's reference begins with it."""
        if name != "actor":
            return super().referenced_id(row, name)
        if row.actor_kind not in ("user", "token"):
            return None
        try:
            return uuid.UUID(row.actor.split("/")[0])
        except ValueError:
            return None

    @admin.display(description="Who", ordering="actor")
    def who(self, entry: AuditEntry) -> str:
        known = entry.__dict__.get("_referenced", {}).get("actor")
        if known is None:
            return f"{entry.actor_kind} {entry.actor}"
        return format_html("{}{}", self.link(entry, known), " by token" if entry.actor_kind == "token" else "")

    @admin.display(description="Resource", ordering="resource_id")
    def resource(self, entry: AuditEntry) -> SafeString:
        return format_html("{} {}", entry.resource_kind, self.link_to_resource(entry))

    def link_to_resource(self, entry: AuditEntry) -> SafeString | str:
        """The resource's page, when its model has one that this person may open."""
        for model in entry.__dict__.get("_may_open", ()):
            if model._meta.model_name == entry.resource_kind:
                url = page_url(model, entry.resource_id)
                return format_html('<a href="{}" class="text-link">{}</a>', url, short(entry.resource_id))
        return short(entry.resource_id)

    @admin.display(description="Resource's id")
    def resource_in_full(self, entry: AuditEntry) -> str:
        return entry.resource_id

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """A typed UUID is whoever or whatever it names; the columns are text."""
        try:
            wanted = str(uuid.UUID(search_term.strip()))
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(resource_id=wanted) | queryset.filter(actor__startswith=wanted), False
