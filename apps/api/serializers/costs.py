"""The ledger and the cost report, as the API tells them, and what can be asked of them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.db.models import Q
from django.utils.dateparse import parse_date, parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, extend_schema_field
from rest_framework import serializers

from apps.api.serializers.base import StrictSerializer, UsdField
from apps.costs.grouping import By
from apps.costs.models import Kind
from apps.costs.searching import FIRST_DAY, LAST_DAY, LedgerFilter
from apps.privacy.models import DataSubject
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

MOST_DAYS = 3660
MOST_GROUPS = 1000
NOBODY = uuid.UUID(int=0)
"""Whom no entry is for."""


@extend_schema_field(OpenApiTypes.STR)
class DayOrMomentField(serializers.Field):
    """A date, or a time with its offset."""

    default_error_messages = {"invalid": 'A day such as "2026-11-01", or a time such as "2026-11-01T00:00:00Z".'}

    def to_internal_value(self, data: Any) -> dt.date | dt.datetime:
        try:
            if day := parse_date(data):
                if FIRST_DAY <= day <= LAST_DAY:
                    return day
            elif (moment := parse_datetime(data)) and moment.tzinfo and FIRST_DAY.year <= moment.year <= LAST_DAY.year:
                return moment
        except ValueError:
            pass
        self.fail("invalid")
        raise AssertionError

    def to_representation(self, value: Any) -> Any:
        return value.isoformat()


class OfTenantsSerializer(StrictSerializer):
    """Query parameters with a ``tenant``; ``principal`` is in the context."""

    tenant = serializers.CharField(required=False, help_text="Slug of a tenant. Without it, all whose costs you read.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Adds ``tenants``, the ids (None: all there are), and ``tenant``, the row where one was asked for and seen."""
        principal: Principal = self.context["principal"]
        allowed = principal.tenant_ids(Permission.COST_READ)
        slug, tenant = attrs.pop("tenant", None), None
        if slug is not None:
            tenant = principal.tenants(Permission.COST_READ).filter(slug=slug).first()
            allowed = {tenant.pk} if tenant else set()
        return {**attrs, "tenant": tenant, "tenants": allowed}


class LedgerQuerySerializer(OfTenantsSerializer):
    """Which ledger entries: everything that is given must hold."""

    user = serializers.CharField(required=False, max_length=200, help_text="Your reference of a user, or a pseudonym.")
    swarm = serializers.UUIDField(required=False)
    agent = serializers.CharField(required=False, allow_blank=True, help_text="Empty: entries without an agent.")
    model = serializers.CharField(required=False, allow_blank=True, help_text="Empty: entries without a model.")
    kind = serializers.ChoiceField(Kind.choices, required=False)
    unsettled = serializers.BooleanField(
        required=False, default=None, allow_null=True, help_text="Whether what the call cost was not known."
    )

    def get_fields(self) -> dict[str, Any]:
        ends = {
            "from": DayOrMomentField(required=False, help_text="First day, in the tenant's time zone; or a time."),
            "to": DayOrMomentField(required=False, help_text="Last day (included); or a time (not included)."),
        }
        return {**super().get_fields(), **ends}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        start, end = attrs.get("from"), attrs.get("to")
        if start and end and type(start) is type(end) and start > end:
            raise serializers.ValidationError({"to": ["This is before `from`."]})
        if (user := attrs.get("user")) is not None:
            attrs["user"] = self._pseudonym(user, attrs["tenants"])
        return attrs

    def _pseudonym(self, user: str, tenants: set[uuid.UUID] | None) -> uuid.UUID:
        known = DataSubject.objects.all() if tenants is None else DataSubject.objects.filter(tenant_id__in=tenants)
        try:
            asked = Q(reference=user) | Q(pk=uuid.UUID(user))
        except ValueError:
            asked = Q(reference=user)
        found = list(known.filter(asked).values_list("pk", flat=True)[:2])
        if len(found) > 1:
            raise serializers.ValidationError({"user": ["Several tenants have such a user: say which `tenant`."]})
        return found[0] if found else NOBODY

    @property
    def chosen(self) -> LedgerFilter:
        asked = self.validated_data
        ends: dict[str, Any] = {}
        for name, day, moment in (("from", "first", "start"), ("to", "last", "end")):
            if (value := asked.get(name)) is not None:
                ends[moment if isinstance(value, dt.datetime) else day] = value
        narrowed = {name: asked.get(name) for name in ("user", "swarm", "agent", "model", "kind", "unsettled")}
        return LedgerFilter(asked["tenants"], **ends, **narrowed)


class LedgerEntrySerializer(serializers.Serializer):
    """An amount that is owed, and how it comes about."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    tenant = serializers.SerializerMethodField()
    kind = serializers.ChoiceField(Kind.choices)
    amount_usd = UsdField(source="amount", help_text="Negative where a correction takes something back.")
    unsettled = serializers.BooleanField(
        help_text="The whole reservation was charged, because what the call cost is not known."
    )
    corrects = serializers.IntegerField(allow_null=True, help_text="The entry that this adjustment puts right.")
    swarm = serializers.UUIDField(source="swarm_id", allow_null=True)
    task = serializers.UUIDField(source="task_id", allow_null=True)
    attempt = serializers.UUIDField(source="attempt_id", allow_null=True)
    user = serializers.UUIDField(source="subject_id", allow_null=True, help_text="Pseudonym of whom it was for.")
    agent = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    input_tokens = serializers.IntegerField(help_text="With those of the provider's prompt cache.")
    output_tokens = serializers.IntegerField()
    cache_read_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    input_usd_per_mtok = UsdField(source="input_per_mtok", allow_null=True, help_text="Price of a million tokens.")
    output_usd_per_mtok = UsdField(source="output_per_mtok", allow_null=True)
    cache_read_usd_per_mtok = UsdField(source="cache_read_per_mtok", allow_null=True)
    cache_write_usd_per_mtok = UsdField(source="cache_write_per_mtok", allow_null=True)
    quantity = serializers.DecimalField(
        24, 9, allow_null=True, help_text="Agent-hours of infrastructure, GB-months of storage."
    )
    unit_price_usd = UsdField(source="unit_price", allow_null=True)
    external_id = serializers.CharField(allow_blank=True, help_text="`event_id` of an agent that runs elsewhere.")
    run = serializers.CharField(allow_blank=True)
    note = serializers.CharField(allow_blank=True)
    saved_usd = UsdField(
        source="saved",
        allow_null=True,
        help_text="Of a call answered from the response cache, which costs nothing: what it would have cost.",
    )

    def get_tenant(self, entry: Any) -> str | None:
        """Its slug; null where the tenant is gone."""
        slugs: dict[uuid.UUID, str] = self.context["slugs"]
        return slugs.get(entry.tenant_id)


def slugs_of(tenant_ids: set[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The slugs of tenants. One query."""
    return dict(Tenant.objects.filter(pk__in=tenant_ids).values_list("pk", "slug"))


class ReportQuerySerializer(OfTenantsSerializer):
    """Which report: without ``from``, 30 days; without ``to``, until today."""

    group_by = serializers.ChoiceField([(str(by), by.name) for by in By], required=False, help_text="Default: model.")
    top = serializers.IntegerField(
        required=False, default=10, min_value=1, max_value=MOST_GROUPS, help_text="How many groups, the dearest first."
    )

    def get_fields(self) -> dict[str, Any]:
        ends = {
            "from": serializers.DateField(required=False, help_text="First day, in each tenant's own time zone."),
            "to": serializers.DateField(required=False, help_text="Last day, included."),
        }
        return {**super().get_fields(), **ends}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        today = self.context["now"].astimezone(attrs["tenant"].zone if attrs["tenant"] else dt.UTC).date()
        last = attrs.setdefault("to", max(today, attrs.get("from", today)))
        first = attrs.setdefault("from", last - dt.timedelta(days=29) if last.year > FIRST_DAY.year else last)
        if first > last:
            raise serializers.ValidationError({"to": ["This is before `from`."]})
        if (last - first).days >= MOST_DAYS:
            raise serializers.ValidationError({"from": [f"A report has at most {MOST_DAYS} days."]})
        if not FIRST_DAY.year < first.year <= last.year < LAST_DAY.year:
            raise serializers.ValidationError({"from": ["These days are out of reach."]})
        return attrs


class AmountsSerializer(serializers.Serializer):
    """What was spent, by kind. Corrections of model calls are in ``llm_usd``, other ones in ``adjustment_usd``."""

    total_usd = UsdField(source="total")
    llm_usd = UsdField(source="llm")
    infrastructure_usd = UsdField(source="infrastructure")
    storage_usd = UsdField(source="storage")
    adjustment_usd = UsdField(source="adjustment")
    entries = serializers.IntegerField(help_text="Ledger entries.")


class ReportDaySerializer(AmountsSerializer):
    day = serializers.DateField()
    active_swarms = serializers.IntegerField(help_text="Swarms with an entry that day.")


class PreviousSerializer(serializers.Serializer):
    """As many days, just before."""

    first = serializers.DateField(source="previous_first")
    last = serializers.DateField(source="previous_last")
    total_usd = UsdField(source="previous_total")


class GroupSerializer(serializers.Serializer):
    key = serializers.CharField(
        allow_null=True, help_text="Id of a tenant, user (pseudonym) or swarm, else a name. Null: without one."
    )
    label = serializers.CharField(allow_blank=True, help_text="What a person calls it.")  # type: ignore[assignment]
    amount_usd = UsdField(source="amount")
    previous_usd = UsdField(source="previous", help_text="In as many days just before.")
    trend_percent = serializers.FloatField(source="trend", allow_null=True, help_text="Null: nothing was spent then.")
    entries = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class ReportSerializer(serializers.Serializer):
    """Days of spending, their sum, how that compares with as many days before, and the dearest groups."""

    tenant = serializers.SerializerMethodField()
    first = serializers.DateField()
    last = serializers.DateField()
    total = AmountsSerializer()
    previous = PreviousSerializer(source="*")
    trend_percent = serializers.FloatField(source="trend", allow_null=True)
    days = ReportDaySerializer(many=True)
    group_by = serializers.ChoiceField([(str(by), by.name) for by in By], source="grouped.by")
    groups = GroupSerializer(source="grouped.groups", many=True)
    rest = GroupSerializer(source="grouped.rest", allow_null=True, help_text="All other groups together.")
    other_groups = serializers.IntegerField(source="grouped.others", help_text="How many the rest stands for.")

    def get_tenant(self, _: Any) -> str | None:
        """Its slug; null for all whose costs you read."""
        tenant: Tenant | None = self.context["tenant"]
        return tenant.slug if tenant else None


LEDGER_EXAMPLE = OpenApiExample(
    "A model call",
    {
        "id": 4711,
        "at": "2026-11-21T09:12:44.120332Z",
        "tenant": "acme",
        "kind": "llm",
        "amount_usd": "0.00042",
        "unsettled": False,
        "corrects": None,
        "swarm": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "task": "019a9b3c-6a01-7d55-8c3e-4f0a1b2c3d4e",
        "attempt": "019a9b3c-6f42-7b1a-9d2e-5a6b7c8d9e0f",
        "user": None,
        "agent": "writer",
        "model": "simulated:small",
        "input_tokens": 1200,
        "output_tokens": 400,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "input_usd_per_mtok": "0.15",
        "output_usd_per_mtok": "0.60",
        "cache_read_usd_per_mtok": "0.15",
        "cache_write_usd_per_mtok": "0.15",
        "quantity": None,
        "unit_price_usd": None,
        "external_id": "",
        "run": "",
        "note": "",
    },
    response_only=True,
    status_codes=["200"],
    media_type="application/json",
)
_AMOUNTS = {"llm_usd": "10.20", "infrastructure_usd": "2.00", "storage_usd": "0.30", "adjustment_usd": "0.00"}
REPORT_EXAMPLE = OpenApiExample(
    "A day of one tenant, by model",
    {
        "tenant": "acme",
        "first": "2026-11-21",
        "last": "2026-11-21",
        "total": {"total_usd": "12.50", **_AMOUNTS, "entries": 811},
        "previous": {"first": "2026-11-20", "last": "2026-11-20", "total_usd": "10.00"},
        "trend_percent": 25.0,
        "days": [{"total_usd": "12.50", **_AMOUNTS, "entries": 811, "day": "2026-11-21", "active_swarms": 14}],
        "group_by": "model",
        "groups": [
            {
                "key": "simulated:large",
                "label": "simulated:large",
                "amount_usd": "10.20",
                "previous_usd": "7.75",
                "trend_percent": 31.6,
                "entries": 780,
                "input_tokens": 2140300,
                "output_tokens": 485000,
            },
            {
                "key": None,
                "label": "",
                "amount_usd": "2.30",
                "previous_usd": "2.25",
                "trend_percent": 2.2,
                "entries": 31,
                "input_tokens": 0,
                "output_tokens": 0,
            },
        ],
        "rest": None,
        "other_groups": 0,
    },
    response_only=True,
    status_codes=["200"],
    media_type="application/json",
)
