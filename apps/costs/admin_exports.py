"""Exporting a month: a page to choose it, the download behind every button, and what was exported first."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.costs.exports.extract import CannotExport, Extract, extract_of
from apps.costs.exports.files import ExportDiffers, export
from apps.costs.exports.formats import WRITERS, Format, file_name
from apps.costs.models import StatementExport
from apps.tenants.access import Principal, principal_of_request
from apps.tenants.admin_scoping import TenantFilter, TenantModelAdmin
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.admin import ReadOnly
from portal.admin_columns import BAD, CALM, GOOD, label, reference_column, status_column, when_column
from portal.admin_fields import DateRangeFilter
from portal.admin_site import Page, register_page
from portal.copying import download

ABOUT = (
    "A tenant's month as a file. Of a closed month the same file comes out every time; one that is not closed is a "
    "draft. Each export is in the audit trail."
)


class ExportForm(forms.Form):
    """Which month of whom. Cleaned, it has the ``extract``; the format is checked where it is asked for."""

    tenant = forms.ModelChoiceField(Tenant.objects.none(), to_field_name="slug", widget=UnfoldAdminSelectWidget)
    period = forms.CharField(
        label="Month",
        max_length=7,
        help_text='In the tenant\'s time zone, such as "2026-10".',
        widget=UnfoldAdminTextInputWidget(attrs={"type": "month"}),
    )
    format = forms.ChoiceField(choices=Format.choices)

    def __init__(self, data: Any, *, principal: Principal, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        choices: Any = self.fields["tenant"]
        choices.queryset = principal.tenants(Permission.COST_READ)

    def clean_format(self) -> Format:
        return Format(self.cleaned_data["format"])

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.extract: Extract = extract_of(given["tenant"], given["period"], now=timezone.now())
            except CannotExport as refusal:
                raise ValidationError({"period": str(refusal)}) from refusal
        return given


def export_page(request: HttpRequest) -> HttpResponseBase:
    """The form; filled in, the file."""
    principal = principal_of_request(request)
    last_month = timezone.localdate().replace(day=1) - dt.timedelta(days=1)
    initial = {"period": f"{last_month:%Y-%m}", "tenant": principal.tenants(Permission.COST_READ).first()}
    form = ExportForm(request.GET if "format" in request.GET else None, principal=principal, initial=initial)
    if form.is_bound and form.is_valid():
        format: Format = form.cleaned_data["format"]
        try:
            pieces = export(form.extract, format, by=principal)
        except ExportDiffers as differs:
            messages.error(request, f"{differs} Nothing was exported.")
        else:
            return download(
                request,
                pieces,
                file_name=file_name(form.extract, format),
                content_type=WRITERS[format].content_type,
            )
    context = {
        **admin.site.each_context(request),
        "title": "Export a month",
        "about": ABOUT,
        "form": form,
        "formats": Format.choices,
    }
    return TemplateResponse(request, "admin/costs/export.html", context)


def export_url(tenant: Tenant, period: str, format: Format) -> str:
    """Where a button leads that exports a tenant's month."""
    return f"{reverse('admin:costs_export')}?{urlencode({'tenant': tenant.slug, 'period': period, 'format': format})}"


register_page(
    Page(
        name="costs_export",
        path="costs/export/",
        about=ABOUT,
        view=export_page,
        may_open=lambda request: principal_of_request(request).can_anywhere(Permission.COST_READ),
    )
)


@admin.register(StatementExport)
class StatementExportAdmin(ReadOnly, TenantModelAdmin):
    about = (
        "The first export of each closed month and format. Every later one is held against its SHA-256: it is the same "
        "file, or it fails and says so."
    )
    empty_hint = "Nothing of a closed month was exported yet. Drafts leave no trace here."
    read_permission = Permission.COST_READ
    is_audited = False
    references = {"tenant_id": "tenants.Tenant"}
    list_display = ("title", "tenant_name", "format_label", "size_text", "hash", "made")
    list_filter = (TenantFilter, ("format", ChoicesDropdownFilter), ("made_at", DateRangeFilter))
    search_fields = ("period", "sha256")
    search_help_text = "Month or SHA-256"
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("title", "tenant_name", "format_label", "made")}),
        ("File", {"fields": ("hash", "size_text", "version", "state")}),
    )
    tenant_name = reference_column("tenant_id", "Tenant")
    format_label = status_column("format", "Format", {})
    made = when_column("made_at", "Exported first")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Lists need no file."""
        rows = super().get_queryset(request)
        return (
            rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("content")
        )

    @admin.display(description="Month", ordering="period")
    def title(self, row: StatementExport) -> str:
        return row.period

    @admin.display(description="SHA-256")
    def hash(self, row: StatementExport) -> SafeString:
        return format_html('<span class="desk-hash">{}</span>', row.sha256)

    @admin.display(description="Size", ordering="size")
    def size_text(self, row: StatementExport) -> str:
        return filesizeformat(row.size)

    @admin.display(description="Kept file")
    def state(self, row: StatementExport) -> SafeString:
        if row.content is None:
            return label("made anew and compared", CALM)
        return label("intact", GOOD) if row.is_intact else label("changed", BAD)
