"""Advice, as the API tells it."""

from __future__ import annotations

from rest_framework import serializers

from apps.api.serializers.base import UsdField
from apps.costs.models import AdviceKind, AdviceStatus


class EvidenceSerializer(serializers.Serializer):
    """The ledger rows that advice rests on."""

    window_start = serializers.DateTimeField()
    window_end = serializers.DateTimeField()
    entries = serializers.IntegerField(help_text="How many ledger entries.")
    filter = serializers.DictField(
        child=serializers.CharField(), source="query", help_text="Values of fields that find them in the ledger."
    )
    sample_ids = serializers.ListField(child=serializers.IntegerField(), help_text="Ids of some of them.")


class AdviceSerializer(serializers.Serializer):
    """One thing to do, and what it would save."""

    id = serializers.UUIDField()
    tenant = serializers.CharField(
        source="tenant.slug", default=None, allow_null=True, help_text="Null: it concerns the platform."
    )
    kind = serializers.ChoiceField(AdviceKind.choices)
    text = serializers.CharField(help_text="What was found, for a person.")
    saving_usd = UsdField(source="saving", help_text="In a month of 30 days.")
    facts = serializers.DictField(help_text="What it is about: the agent, its model and the cheaper one, replicas.")
    evidence = EvidenceSerializer(source="*")
    status = serializers.ChoiceField(AdviceStatus.choices)
    reason = serializers.CharField(allow_blank=True, help_text="Why it was dismissed.")
    found_at = serializers.DateTimeField()
    decided_at = serializers.DateTimeField(allow_null=True)
