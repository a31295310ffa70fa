"""Files that agents made: whose, how large, where their bytes lie, and the way to their download."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import TextChoices
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import DropdownFilter, FieldTextFilter

from apps.execution.models import Artifact
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import (
    NOTHING,
    Display,
    label,
    link_column,
    reference_column,
    short,
    text_column,
    value_at,
    when_column,
)
from portal.admin_fields import DateRangeFilter

LISTED = 20
"""Files that the page of a task or an attempt names; the others are in the list."""
MOST_BYTES = 2**63 - 1


class Place(TextChoices):
    DATABASE = "database"
    STORAGE = "storage", "Object storage"


class PlaceFilter(DropdownFilter):
    title = "place"
    parameter_name = "place"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(text)) for value, text in Place.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case Place.DATABASE:
                return queryset.filter(key="")
            case Place.STORAGE:
                return queryset.exclude(key="")
        return queryset


@admin.register(Artifact)
class ArtifactAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "Files that agents made. Small ones lie in the database, large ones in object storage. "
        "Each download is an audit entry."
    )
    empty_hint = "A file is listed as soon as the task that made it has succeeded."
    read_permission = Permission.SWARM_READ
    swarm_path = "swarm_id"
    huge = True
    references = {"attempt_id": "execution.Attempt"}
    search_ids = ("swarm_id", "task_id", "attempt_id")
    search_fields = ("name", "=sha256", "swarm__name")
    search_help_text = "Name, size in bytes or SHA-256; name or id of the swarm; id of the task or attempt"
    list_display = ("title", "download", "bytes", "swarm_link", "task_link", "tenant_link", "kind", "made", "digest")
    list_filter = (TenantFilter, ("media_type", FieldTextFilter), PlaceFilter, ("created_at", DateRangeFilter))
    list_select_related = ("swarm", "tenant", "task", "task__step")
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("name", "download", "swarm_link", "task_link", "attempt", "tenant_link", "made")}),
        ("Bytes", {"fields": ("media_type_text", "exact_size", "sha256_text", "place", "key_text")}),
    )
    swarm_link = link_column("swarm", "Swarm")
    task_link = link_column("task", "Task")
    tenant_link = link_column("tenant", "Tenant")
    attempt = reference_column("attempt_id", "Attempt")
    made = when_column("created_at", "Made")
    title = text_column("name", "Artifact", limit=40)
    kind = text_column("media_type", "Media type", limit=30)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("content", "swarm__spec", "task__result", "task__step__prompt")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """A typed number is a size as well."""
        found, distinct = super().get_search_results(request, queryset, search_term)
        typed = search_term.strip().replace(",", "")
        if typed.isascii() and typed.isdigit() and int(typed) <= MOST_BYTES:
            found |= queryset.filter(size=int(typed))
        return found, distinct

    @admin.display(description="Size", ordering="size")
    def bytes(self, artifact: Artifact) -> str:
        return filesizeformat(artifact.size)

    @admin.display(description="Size")
    def exact_size(self, artifact: Artifact) -> str:
        return f"{artifact.size:,} bytes"

    @admin.display(description="SHA-256")
    def digest(self, artifact: Artifact) -> SafeString | str:
        return short(artifact.sha256)

    @admin.display(description="Media type")
    def media_type_text(self, artifact: Artifact) -> SafeString:
        return in_full(artifact.media_type)

    @admin.display(description="SHA-256")
    def sha256_text(self, artifact: Artifact) -> SafeString:
        return in_full(artifact.sha256)

    @admin.display(description="Key")
    def key_text(self, artifact: Artifact) -> SafeString | str:
        return in_full(artifact.key) if artifact.key else NOTHING

    @admin.display(description="Lies in")
    def place(self, artifact: Artifact) -> SafeString:
        return label((Place.STORAGE if artifact.key else Place.DATABASE).label.lower())

    @admin.display(description="Download")
    def download(self, artifact: Artifact) -> SafeString:
        return format_html('<a href="{}" class="text-link">Download</a>', download_url(artifact))


def in_full(text: str) -> SafeString:
    """A text without blanks, in as many lines as it needs."""
    return format_html('<span class="desk-hash">{}</span>', text)


def download_url(artifact: Artifact) -> str:
    """Where people download it: one door for console and administration."""
    return reverse("console:artifact", args=[artifact.pk])


def files_column(path: str) -> Display:
    """The files of the task whose id is at ``path``, each with its download: for pages of one row."""

    def display(self: Any, row: Any) -> SafeString | str:
        task_id, known = value_at(row, path), row.__dict__
        if "_files" not in known:  # a page asks for what it shows more than once
            known["_files"] = list(Artifact.objects.filter(task_id=task_id).order_by("name")[: LISTED + 1])
        files = known["_files"]
        if not files:
            return NOTHING
        lines = format_html_join(
            "",
            '<li><a href="{}" class="text-link"><bdi>{}</bdi></a> {}, {}</li>',
            ((download_url(file), file.name, file.media_type, filesizeformat(file.size)) for file in files[:LISTED]),
        )
        text = f"These are the first {LISTED}: show all" if len(files) > LISTED else "Show in the list"
        listed = self.link_to_list(row, Artifact, f"task__id__exact={task_id}", text)
        return format_html('<ul class="flex flex-col gap-1">{}<li>{}</li></ul>', lines, listed)

    display.short_description = "Files"  # type: ignore[attr-defined]
    return display
