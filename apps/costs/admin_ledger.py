"""The ledger: what is owed, entry by entry, with what the entries of a filter add up to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import PAGE_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from unfold.decorators import action
from unfold.views import ChangeList as UnfoldChangeList

from apps.costs import ledger_export
from apps.costs.admin_adjusting import correct_page
from apps.costs.admin_months import statement_url
from apps.costs.explaining import explain
from apps.costs.models import BudgetPeriod, Kind, LedgerEntry
from apps.costs.searching import LedgerFilter
from apps.costs.spend_forms import ANY_TIME, Chosen, LedgerForm
from apps.costs.statement_contents import period_of
from apps.tenants.admin_scoping import TenantModelAdmin
from apps.tenants.roles import Permission
from portal.admin import Card, ChangeList, ReadOnly, list_url, page_url
from portal.admin_columns import (
    CALM,
    GOOD,
    NOTHING,
    WARN,
    label,
    moment,
    reference_column,
    short,
    short_column,
    status_column,
    usd_column,
    usd_exact,
    when_column,
)
from portal.copying import csv_response
from portal.money import usd_label, usd_text

MOST_COUNTED = 1000
KIND_TONES = {Kind.ADJUSTMENT: WARN}


class LedgerFilterSpec(admin.ListFilter):
    """All of the ledger's filters as one form, so that they are checked together and say what is wrong."""

    title = "what it was for"
    template = "unfold/filters/filters_field.html"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: LedgerEntryAdmin) -> None:
        super().__init__(request, params, model, model_admin)
        self.form = model_admin.form_of(request)
        self.per_page = model_admin.list_per_page
        for name in self.form.fields:
            if name in params:
                self.used_parameters[name] = params.pop(name)

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.form.fields)

    def choices(self, changelist: UnfoldChangeList) -> Iterator[Any]:
        yield {"form": self.form}

    def queryset(self, request: HttpRequest, queryset: QuerySet[LedgerEntry]) -> QuerySet[LedgerEntry]:
        """What was chosen, of the tenants that the person may see; nothing while the filter does not make sense."""
        if not self.form.is_valid():
            return queryset.none()
        page = request.GET.get(PAGE_VAR, "1")
        pages = int(page) if page.isdecimal() and len(page) < 10 else 1
        return self.form.chosen().entries(enough=pages * self.per_page)


class LedgerChangeList(ChangeList):
    """The rows of a filter, with what all of them add up to."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.form: LedgerForm = self.model_admin.form_of(request)
        self.problems = [error for errors in self.form.errors.values() for error in errors]
        self.chosen: Chosen | None = None if self.problems else self.form.chosen()
        self.summary: list[dict[str, Any]] = []
        if self.chosen:
            self.export_url = f"{reverse('admin:costs_ledgerentry_export')}?{self.chosen.link()}"
            self.any_time_url = f"?{self.chosen.link(**{'period': ANY_TIME, 'from': '', 'to': ''})}"
            self.summary = summary_of(self.chosen)
            self.days = str(self.chosen.frame or "Any time")


def summary_of(chosen: Chosen) -> list[dict[str, Any]]:
    """Totals of a filter as lines of a table: all of it, then kind by kind where there are several."""
    by_kind = chosen.totals()
    lines = [(Kind(kind).label, sums) for kind, sums in by_kind.items()]
    lines.sort(key=lambda line: -line[1].amount)
    overall = [sum(column) for column in zip(*by_kind.values(), strict=True)] if by_kind else [0, 0, 0, 0]
    return [
        {
            "name": str(name).capitalize(),
            "amount": usd_label(amount),
            "exact": f"{usd_text(amount)} USD",
            "entries": f"{entries:,}",
            "input_tokens": f"{read:,}",
            "output_tokens": f"{written:,}",
        }
        for name, (amount, entries, read, written) in [("All entries", overall), *lines]
    ]


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnly, TenantModelAdmin):
    about = "What is owed, entry by entry. The database refuses changes: a correction is an adjustment, another entry."
    empty_hint = "Nothing was spent this month yet. Choose other days in the filter to see earlier ones."
    read_permission = Permission.COST_READ
    is_audited = False
    huge = True
    references: ClassVar[dict[str, str]] = {
        "tenant_id": "tenants.Tenant",
        "swarm_id": "swarms.Swarm",
        "subject_id": "privacy.DataSubject",
    }
    list_display = ("entry", "when", "tenant_name", "kind_label", "amount_usd", "what", "agent", "swarm", "state")
    list_filter = (LedgerFilterSpec,)
    list_before_template = "admin/costs/ledger_summary.html"
    actions_detail = ("correct_one",)
    sortable_by = ()  # any other order than the latest first would sort millions of rows
    ordering = ("-at", "-id")
    fieldsets = (
        (None, {"fields": ("exactly", "kind_label", "amount_exact", "explained", "state", "note")}),
        ("For", {"fields": ("tenant_name", "subject", "swarm", "task", "agent", "model", "external_id")}),
        ("Statement and corrections", {"fields": ("statement", "corrected", "corrections", "net")}),
        ("Charged to", {"fields": ("charged_to",)}),
        ("Ids", {"fields": ("entry", "reservation", "attempt")}),
    )
    entry = short_column("id", "Entry")
    when = when_column("at", "When")
    kind_label = status_column("kind", "Kind", KIND_TONES)
    amount_usd = usd_column("amount", "Amount")
    amount_exact = usd_exact("amount", "Amount")
    tenant_name = reference_column("tenant_id", "Tenant")
    subject = reference_column("subject_id", "For the person")
    _swarm = reference_column("swarm_id", "Swarm")
    attempt = short_column("attempt_id", "Attempt")
    reservation = short_column("reservation_id", "Call")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LedgerChangeList

    def get_urls(self) -> list[URLPattern]:
        export = path("export/", self.admin_site.admin_view(self.export), name="costs_ledgerentry_export")
        return [export, *super().get_urls()]

    @action(description="Correct this entry…", url_path="correct", icon="edit_note")
    def correct_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return correct_page(self, request, object_id)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The button for people who may; corrections have none."""
        entry = self.row_or_none(request, object_id)
        may = entry is not None and self.principal(request).can(Permission.COST_UPDATE, entry.tenant_id)
        return list(super().get_actions_detail(request, object_id)) if may and entry.corrects is None else []

    def form_of(self, request: HttpRequest) -> LedgerForm:
        """The filter as the address has it; read once per request."""
        form: LedgerForm | None = request.__dict__.get("_ledger_form")
        if form is None:
            form = LedgerForm(request.GET.dict(), principal=self.principal(request), now=timezone.now())
            request.__dict__["_ledger_form"] = form
        return form

    @method_decorator(require_safe)
    def export(self, request: HttpRequest) -> HttpResponseBase:
        """The rows of the filter as CSV. A filter that does not make sense leads back to where it says so."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = self.form_of(request)
        if not form.is_valid():
            self.message_user(request, "Nothing was exported: the filter has to be mended first.", messages.ERROR)
            return redirect(list_url(LedgerEntry, request.GET.urlencode()))
        chosen = form.chosen()
        query, params = ledger_export.export(chosen, by=self.principal(request))
        days = f"{chosen.frame.first}-to-{chosen.frame.last}" if chosen.frame else "any-time"
        whose = chosen.tenant.slug if chosen.tenant else "all"
        return csv_response(request, query, params, file_name=f"ledger-{whose}-{days}.csv")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The entry, with its correction or those of it, and the budget periods it was charged to."""
        entry = super().get_object(request, object_id, from_field)
        if entry is not None:
            periods = BudgetPeriod.objects.filter(pk__in=entry.period_ids, budget__tenant_id=entry.tenant_id)
            related = self.get_queryset(request).filter(tenant_id=entry.tenant_id).order_by("pk")
            entry.__dict__["_periods"] = list(periods.select_related("budget").order_by("pk"))
            entry.__dict__["_corrections"] = list(related.filter(corrects=entry.pk))
            entry.__dict__["_corrected"] = related.filter(pk=entry.corrects).first() if entry.corrects else None
        return entry

    def card(self, request: HttpRequest) -> Card | None:
        """Charges of reservations whose real cost is not known, and that no adjustment has put right."""
        tenants = self.principal(request).tenant_ids(Permission.COST_READ)
        chosen = Chosen(LedgerFilter(tenants, unsettled=True), (), None, unsettled="open")
        amounts = list(chosen.entries().order_by().values_list("amount", flat=True)[:MOST_COUNTED])
        count = f"{MOST_COUNTED:,} or more" if len(amounts) == MOST_COUNTED else f"{len(amounts):,}"
        charged = f"{usd_label(sum(amounts))} charged as reserved: what the calls cost is not known"
        return Card(
            "Unsettled charges",
            count,
            charged if amounts else "None is to be put right",
            list_url(LedgerEntry, f"period={ANY_TIME}&unsettled=open"),
            WARN if amounts else GOOD,
        )

    # -- columns -------------------------------------------------------------------------------------------------------

    @admin.display(description="Swarm")
    def swarm(self, entry: LedgerEntry) -> Any:
        """The swarm, or the name of a run elsewhere, which has no page."""
        return f"{entry.run} (elsewhere)" if entry.run else self._swarm(entry)

    @admin.display(description="Of what")
    def what(self, entry: LedgerEntry) -> str:
        """The model, or what was counted; on the list."""
        if entry.model or entry.quantity is None:
            return entry.model or entry.note or NOTHING
        return explain(entry)[0].rstrip(".")

    @admin.display(description="When")
    def exactly(self, entry: LedgerEntry) -> SafeString:
        """The moment by the tenant's clocks, which decide into which day and month it falls; for the entry's page."""
        tenant = entry.__dict__.get("_referenced", {}).get("tenant_id")
        at = entry.at.astimezone(tenant.zone if tenant else dt.UTC)
        return format_html("{} ({})", f"{at:%-d %B %Y %H:%M:%S} {at.tzname()}", moment(entry.at))

    @admin.display(description="State")
    def state(self, entry: LedgerEntry) -> SafeString:
        if entry.saved is not None:
            return label("from the cache", CALM, entry.note)
        return label("unsettled", WARN) if entry.unsettled else label("settled", GOOD)

    @admin.display(description="How that comes about")
    def explained(self, entry: LedgerEntry) -> SafeString | str:
        lines = explain(entry)
        if not lines:
            return "The amount was given as it stands."
        return format_html('<ul class="desk-lines">{}</ul>', format_html_join("", "<li>{}</li>", ([x] for x in lines)))

    @admin.display(description="Task")
    def task(self, entry: LedgerEntry) -> SafeString | str:
        return short(entry.task_id)

    @admin.display(description="Corrects")
    def corrected(self, entry: LedgerEntry) -> SafeString | str:
        other = entry.__dict__.get("_corrected")
        if other is None:
            return f"Entry {entry.corrects}, which is gone by now" if entry.corrects else "Nothing: it stands alone"
        return self._link_to_entry(other)

    @admin.display(description="Corrected by")
    def corrections(self, entry: LedgerEntry) -> SafeString | str:
        found = entry.__dict__.get("_corrections", [])
        return format_html_join(", ", "{}", ([self._link_to_entry(other)] for other in found)) or "Nothing so far"

    @admin.display(description="Owed after corrections")
    def net(self, entry: LedgerEntry) -> str:
        return f"{usd_text(entry.amount + sum(each.amount for each in entry.__dict__.get('_corrections', [])))} USD"

    @admin.display(description="In the statement of")
    def statement(self, entry: LedgerEntry) -> SafeString | str:
        tenant = entry.__dict__.get("_referenced", {}).get("tenant_id")
        if tenant is None:
            return NOTHING
        period = period_of(entry, tenant)
        return format_html('<a href="{}" class="text-link">{}</a>', statement_url(tenant.slug, period), period)

    @admin.display(description="Budget periods")
    def charged_to(self, entry: LedgerEntry) -> SafeString | str:
        periods = entry.__dict__.get("_periods", [])
        listed = format_html_join("", "<li>{}</li>", ([self._period(entry, each)] for each in periods))
        return format_html('<ul class="desk-lines">{}</ul>', listed) if periods else "No budget: none watched it"

    def _period(self, entry: LedgerEntry, period: BudgetPeriod) -> SafeString | str:
        text = f"{period.budget.name}, {period.key if len(period.key) <= 12 else 'run'}"
        url = page_url(BudgetPeriod, period.pk) if BudgetPeriod in entry.__dict__.get("_may_open", ()) else ""
        return format_html('<a href="{}" class="text-link">{}</a>', url, text) if url else text

    def _link_to_entry(self, other: LedgerEntry) -> SafeString:
        text = f"{Kind(other.kind).label} {usd_label(other.amount)}, entry {other.pk}"
        return format_html('<a href="{}" class="text-link">{}</a>', page_url(LedgerEntry, other.pk), text)
