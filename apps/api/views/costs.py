"""What was spent: the ledger, entry by entry, and the report."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.csv_answers import CsvDoor, Exact, csv_table
from apps.api.pagination import BAD_CURSOR, CURSOR, LARGEST_PAGE, SIZE, Cursor, Pages
from apps.api.schema import INVALID
from apps.api.serializers.costs import (
    LEDGER_EXAMPLE,
    MOST_GROUPS,
    REPORT_EXAMPLE,
    LedgerEntrySerializer,
    LedgerQuerySerializer,
    ReportQuerySerializer,
    ReportSerializer,
    slugs_of,
)
from apps.costs import ledger_export, reports
from apps.costs.daily import Day, daily
from apps.costs.grouping import By
from apps.costs.models import LedgerEntry
from apps.costs.searching import LedgerFilter
from apps.costs.spend_forms import Chosen
from apps.tenants.models import Tenant
from portal.copying import csv_response
from portal.money import usd_text

_CSV = (200, "text/csv")
_JSON = (200, "application/json")


@extend_schema(tags=["costs"])
class Ledger(CsvDoor, GenericAPIView):
    serializer_class = LedgerEntrySerializer
    pagination_class = Pages
    filter_backends = ()
    ordering = ("-at", "-id")

    @extend_schema(
        summary="List ledger entries",
        operation_id="ledger_list",
        parameters=[LedgerQuerySerializer],
        responses={_JSON: LedgerEntrySerializer(many=True), _CSV: OpenApiTypes.STR, **INVALID},
        examples=[LEDGER_EXAMPLE],
    )
    def get(self, request: Request) -> HttpResponseBase:
        """What is owed, the latest first, of the tenants whose costs you read (cost:read).

        Days are those of each entry's tenant. As CSV (`?format=csv`, or `Accept: text/csv`) all entries come at once,
        the earliest first, however many they are.
        """
        given = request.query_params.dict()
        for name in (CURSOR, SIZE, "format"):
            given.pop(name, None)
        query = LedgerQuerySerializer(data=given, context={"principal": self.principal})
        query.is_valid(raise_exception=True)
        if self.wants_csv:
            return self._csv(query.chosen, given)
        page: Any = self.paginate_queryset(self._rows(query.chosen)) or []
        context = {"slugs": slugs_of({entry.tenant_id for entry in page})}
        return self.get_paginated_response(LedgerEntrySerializer(page, many=True, context=context).data)

    def _rows(self, chosen: LedgerFilter) -> QuerySet[LedgerEntry]:
        """The entries; of those behind the cursor, what a page can need."""
        before = None
        if text := self.request.query_params.get(CURSOR):
            try:
                cursor = Cursor.read(text, len(self.ordering))
                before = dt.datetime.fromisoformat(str(cursor.values[0])).astimezone(dt.UTC)
                if cursor.backwards:
                    return chosen.entries()
            except BAD_CURSOR:
                return chosen.entries()  # Pages refuses it
        return chosen.entries(enough=LARGEST_PAGE + 1, before=before)

    def _csv(self, chosen: LedgerFilter, given: dict[str, str]) -> HttpResponseBase:
        rows = Tenant.objects.all()
        tenants = tuple(rows if chosen.tenants is None else rows.filter(pk__in=chosen.tenants))
        query, params = ledger_export.export(Chosen(chosen, tenants, None, query=given), by=self.principal)
        return csv_response(self.request._request, query, params, file_name="ledger.csv")


@extend_schema(tags=["costs"])
class CostReport(CsvDoor):
    @extend_schema(
        summary="Cost report",
        operation_id="cost_report",
        parameters=[ReportQuerySerializer],
        responses={_JSON: ReportSerializer, _CSV: OpenApiTypes.STR, **INVALID},
        examples=[REPORT_EXAMPLE],
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Spending by day and by group, to the last entry, of the tenants whose costs you read (cost:read).

        A day is one of each tenant's own calendar. As CSV (`?format=csv`, or `Accept: text/csv`): a row for each day;
        with `group_by`, a row for each group instead.
        """
        given = request.query_params.dict()
        given.pop("format", None)
        query = ReportQuerySerializer(data=given, context={"principal": self.principal, "now": timezone.now()})
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        tenants, first, last = asked["tenants"], asked["from"], asked["to"]
        by = By(asked.get("group_by", By.MODEL))
        if self.wants_csv:
            name = f"costs-{asked['tenant'].slug if asked['tenant'] else 'all'}-{first}-to-{last}"
            if "group_by" in asked:
                top = asked["top"] if "top" in given else MOST_GROUPS
                return _groups_csv(reports.grouped(tenants, first, last, by, top=top), f"{name}-by-{by}.csv")
            return _days_csv(daily(tenants, first, last), f"{name}.csv")
        found = reports.report(tenants, first, last, by=by, top=asked["top"])
        document: Any = ReportSerializer(found, context={"tenant": asked["tenant"]}).data
        return Response(document)


def _usd(nano: int) -> Exact:
    return Exact(usd_text(nano))


def _days_csv(days: list[Day], file_name: str) -> HttpResponseBase:
    kinds = ("total", "llm", "infrastructure", "storage", "adjustment")
    columns = ["day", *(f"{kind}_usd" for kind in kinds), "active_swarms", "entries"]
    rows = (
        (
            day.day.isoformat(),
            *(_usd(getattr(day, kind)) for kind in kinds),
            day.active_swarms,
            day.entries,
        )
        for day in days
    )
    return csv_table(columns, rows, file_name=file_name)


def _groups_csv(found: reports.Grouped, file_name: str) -> HttpResponseBase:
    columns = f"{found.by} name amount_usd previous_usd trend_percent entries input_tokens output_tokens".split()
    lines = [*found.groups, *([found.rest] if found.rest else [])]
    rows = (
        (
            line.key or "",
            f"{found.others} others" if line is found.rest else line.label,
            _usd(line.amount),
            _usd(line.previous),
            line.trend,
            line.entries,
            line.input_tokens,
            line.output_tokens,
        )
        for line in lines
    )
    return csv_table(columns, rows, file_name=file_name)
