"""Archives of swarms: which there are, which cannot be written and why, and their documents to take away."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.files.storage import storages
from django.db.models import TextChoices
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action

from apps.audit import trail
from apps.execution.models import Archive
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly, admin_url, list_url
from portal.admin_columns import BAD, CALM, GOOD, NOTHING, label, link_column, moment, text_column, when_column
from portal.admin_fields import DateRangeFilter


class State(TextChoices):
    STORED = "stored"
    FAILING = "failing"
    WAITING = "waiting"


def state_of(archive: Archive) -> State:
    """Stored; failing, when the last try went wrong; else waiting for a worker."""
    if archive.is_stored:
        return State.STORED
    return State.FAILING if archive.error else State.WAITING


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(text)) for value, text in State.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case State.STORED:
                return queryset.filter(stored_at__isnull=False)
            case State.FAILING:
                return queryset.filter(stored_at=None).exclude(error="")
            case State.WAITING:
                return queryset.filter(stored_at=None, error="")
        return queryset


@admin.register(Archive)
class ArchiveAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "What is kept of terminated swarms in object storage: state and transcript, as one document each. "
        "What cannot be stored is tried again until it is."
    )
    empty_hint = "A swarm is archived moments after it was terminated."
    read_permission = Permission.SWARM_READ
    swarm_path = "swarm_id"
    search_ids = ("swarm_id",)
    search_fields = ("swarm__name",)
    search_help_text = "Name or id of the swarm, id of the archive"
    list_display = ("title", "state", "swarm_link", "tenant_link", "bytes", "ended", "stored", "error_text")
    list_filter = (StateFilter, TenantFilter, ("stored_at", DateRangeFilter))
    list_select_related = ("swarm", "tenant")
    ordering = ("-id",)
    actions_detail = ("download",)
    fieldsets = (
        (None, {"fields": ("state", "swarm_link", "tenant_link", "reason", "ended")}),
        ("Document", {"fields": ("stored", "bytes", "sha256", "key", "format")}),
        ("Tries", {"fields": ("tries", "next_try", "error_full")}),
    )
    swarm_link = link_column("swarm", "Swarm")
    tenant_link = link_column("tenant", "Tenant")
    ended = when_column("swarm__finished_at", "Swarm ended")
    stored = when_column("stored_at", "Stored")
    error_text = text_column("error", "Last error", limit=60)
    error_full = text_column("error", "Last error")

    @admin.display(description="Archive", ordering="swarm__name")
    def title(self, archive: Archive) -> str:
        return archive.swarm.name

    @admin.display(description="State")
    def state(self, archive: Archive) -> SafeString:
        found = state_of(archive)
        return label(found.label.lower(), {State.STORED: GOOD, State.FAILING: BAD}.get(found, CALM))

    @admin.display(description="Size", ordering="size")
    def bytes(self, archive: Archive) -> str:
        return NOTHING if archive.size is None else filesizeformat(archive.size)

    @admin.display(description="Next try")
    def next_try(self, archive: Archive) -> SafeString | str:
        return NOTHING if archive.is_stored else moment(archive.due_at)

    @action(description="Download", url_path="download", icon="download")
    @method_decorator(require_safe)
    def download(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The document as it is stored. Each download is an audit entry, one that the store refuses as well."""
        archive = self.get_object(request, object_id)
        if archive is None:
            return redirect(list_url(Archive))
        if not self.has_view_permission(request, archive):
            raise PermissionDenied
        if not archive.is_stored:
            return self._refused(request, archive, "It is not stored yet.")
        try:
            document = storages["archive"].open(archive.key)
        except Exception as error:  # each kind of store has its own, and all mean the same to who asks
            reason = f"The object storage does not give it out: {type(error).__name__}: {error}"
            self._audit_download(request, archive, success=False, reason=reason)
            return self._refused(request, archive, reason)
        self._audit_download(request, archive)
        name = f"{archive.swarm.name}-{str(archive.swarm_id)[-12:]}.json.gz"
        response = FileResponse(document, as_attachment=True, filename=name, content_type="application/gzip")
        response["Content-Length"] = str(archive.size)
        return response

    def _refused(self, request: HttpRequest, archive: Archive, reason: str) -> HttpResponse:
        self.message_user(request, reason, messages.ERROR)
        return redirect(admin_url(archive))

    def _audit_download(self, request: HttpRequest, archive: Archive, **outcome: Any) -> None:
        trail.record(
            self.principal(request),
            "archive:read",
            archive,
            tenant_id=archive.tenant_id,
            details={"swarm": str(archive.swarm_id), "sha256": archive.sha256},
            **outcome,
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        archive = self.row_or_none(request, object_id)
        return list(super().get_actions_detail(request, object_id)) if archive and archive.is_stored else []
