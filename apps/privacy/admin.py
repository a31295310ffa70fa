"""The people swarms run for, by pseudonym."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from apps.privacy.models import DataSubject
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import reference_column, short, short_column, when_column
from portal.admin_fields import DateRangeFilter


@admin.register(DataSubject)
class DataSubjectAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "People that swarms run for. Ledger, events and trail know them by pseudonym only. Whose pseudonym it is "
        "stands on the person's own page, and opening that page is audited."
    )
    empty_hint = "A person appears here when a spec names one as its end_user."
    read_permission = Permission.AUDIT_READ
    audit_as = "subject"
    references = {"tenant_id": "tenants.Tenant"}
    list_display = ("pseudonym", "tenant_name", "since")
    list_filter = (TenantFilter, ("created_at", DateRangeFilter))
    search_fields = ("=reference",)
    search_help_text = "A pseudonym, or a reference in full"
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("pseudonym", "reference", "tenant_name", "since")}),)
    pseudonym = short_column("id", "Pseudonym")
    tenant_name = reference_column("tenant_id", "Tenant")
    since = when_column("created_at", "First seen")

    def name_for_links(self, obj: Any) -> Any:
        return short(obj.pk)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, obj: Any = None, **kwargs: Any) -> Any:
        if obj is not None:
            self.audit(request, obj, "read", {})
        return super().render_change_form(request, context, *args, obj=obj, **kwargs)
