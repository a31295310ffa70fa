"""The audit trail, as the API tells it, and what can be asked of it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import Q, QuerySet
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.api.serializers.base import StrictSerializer
from apps.api.serializers.costs import DayOrMomentField
from apps.audit.models import AuditEntry

ACTOR_KINDS = ("user", "token", "command", "system")


class AuditQuerySerializer(StrictSerializer):
    """Which entries: everything that is given must hold."""

    tenant = serializers.CharField(required=False, help_text="Slug of a tenant. Without it, all whose trail you read.")
    actor = serializers.CharField(
        required=False, max_length=100, help_text="Id of a user, with what they did by tokens; or name of a process."
    )
    actor_kind = serializers.ChoiceField(ACTOR_KINDS, required=False)
    action = serializers.CharField(
        required=False, max_length=60, help_text='An action ("swarm:terminate"), or its beginning ("swarm:").'
    )
    resource_kind = serializers.CharField(required=False, max_length=40, help_text='Such as "swarm".')
    resource = serializers.CharField(required=False, max_length=64, help_text="Id of what was acted on.")
    success = serializers.BooleanField(required=False, default=None, allow_null=True, help_text="False: refused.")

    def get_fields(self) -> dict[str, Any]:
        ends = {
            "from": DayOrMomentField(required=False, help_text="First day, in UTC; or a time."),
            "to": DayOrMomentField(required=False, help_text="Last day (included), in UTC; or a time (not included)."),
        }
        return {**super().get_fields(), **ends}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        start, end = _moment(attrs.get("from")), _moment(attrs.get("to"), after=True)
        if start and end and start > end:
            raise serializers.ValidationError({"to": ["This is before `from`."]})
        return {**attrs, "start": start, "end": end}

    def narrow(self, entries: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        """Those of the entries that were asked for, whatever their tenant."""
        asked = self.validated_data
        wanted = {
            "at__gte": asked["start"],
            "at__lt": asked["end"],
            "actor_kind": asked.get("actor_kind"),
            "action__startswith": asked.get("action"),
            "resource_kind": asked.get("resource_kind"),
            "resource_id": asked.get("resource"),
            "success": asked["success"],
        }
        entries = entries.filter(**{name: value for name, value in wanted.items() if value is not None})
        if actor := asked.get("actor"):  # a token's reference begins with its user's id
            entries = entries.filter(Q(actor=actor) | Q(actor_kind="token", actor__startswith=f"{actor}/"))
        return entries


def _moment(value: dt.date | dt.datetime | None, *, after: bool = False) -> dt.datetime | None:
    """A moment as such; of a day its beginning in UTC, or ``after`` it."""
    if value is None or isinstance(value, dt.datetime):
        return value
    return dt.datetime.combine(value + dt.timedelta(days=after), dt.time(), dt.UTC)


class AuditEntrySerializer(serializers.Serializer):
    """One act or access. People appear by their id."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    actor_kind = serializers.ChoiceField(ACTOR_KINDS)
    actor = serializers.CharField(help_text="Id of the user; of a token, its user's id and its first characters.")
    address = serializers.IPAddressField(allow_null=True)
    action = serializers.CharField()
    resource_kind = serializers.CharField()
    resource = serializers.CharField(source="resource_id")
    tenant = serializers.SerializerMethodField()
    success = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True)
    details = serializers.DictField()

    def get_tenant(self, entry: AuditEntry) -> str | None:
        """Slug of the tenant; null where it concerns the platform."""
        slug: str | None = self.context["slugs"].get(entry.tenant_id)
        return slug


AUDIT_EXAMPLE = OpenApiExample(
    "A swarm was terminated",
    {
        "id": 48211,
        "at": "2026-11-21T05:31:02.114023Z",
        "actor_kind": "user",
        "actor": "019a9b3c-1111-7c3a-9f10-2b6f6f0f1c11",
        "address": "203.0.113.7",
        "action": "swarm:terminate",
        "resource_kind": "swarm",
        "resource": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "tenant": "acme",
        "success": True,
        "reason": "wrong input",
        "details": {},
    },
    response_only=True,
    status_codes=["200"],
)
