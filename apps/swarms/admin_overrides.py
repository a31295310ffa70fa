"""What tenants have decided about their agents, whatever specs say."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.http import HttpRequest

from apps.costs.admin import PriceAdmin
from apps.providers import catalogue
from apps.swarms.models import AgentOverride
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin_columns import link_column, when_column
from portal.admin_fields import SuggestingTextInput

PriceAdmin.listed_models = staticmethod(catalogue.listed)


@admin.register(AgentOverride)
class AgentOverrideAdmin(TenantModelAdmin):
    about = (
        "Another model, or fewer replicas at most, for the agents of a name in swarms submitted from now on, whatever "
        "their spec says. Remove one, and specs count again. What was changed is kept with each swarm."
    )
    empty_hint = "Specs count as they are. Acting on advice adds overrides here; you can add your own."
    read_permission = Permission.COST_READ
    write_permission = Permission.COST_UPDATE
    audit_as = "override"
    list_display = ("agent", "tenant_link", "model", "max_replicas", "since", "note")
    list_filter = (TenantFilter,)
    search_fields = ("agent", "model", "note")
    list_select_related = ("tenant",)
    ordering = ("agent", "tenant__slug", "id")
    labels: ClassVar[dict[str, str]] = {"max_replicas": "Replicas at most"}
    tenant_link = link_column("tenant", "Tenant")
    since = when_column("created_at", "Since")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "model" and field is not None:
            names = [f"{provider}:{name}" for provider, names in catalogue.listed().items() for name in names]
            field.widget = SuggestingTextInput(names, {"maxlength": db_field.max_length})
        return field

    def save_model(self, request: HttpRequest, obj: AgentOverride, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        for doubt in catalogue.unlisted([obj.model]).values():
            self.message_user(request, doubt, messages.WARNING)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whose it is and for which agent is settled when it is made."""
        return ("tenant_link", "agent") if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return ((None, {"fields": ("tenant_link" if obj else "tenant", "agent", "model", "max_replicas", "note")}),)
