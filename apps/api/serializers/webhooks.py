"""Webhooks and deliveries, as the API tells them, and the bodies that make and change them."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.api.serializers.base import StrictSerializer, TenantField
from apps.webhooks.addresses import LONGEST_URL
from apps.webhooks.kinds import KINDS
from apps.webhooks.models import DeliveryStatus, WebhookStatus

KIND_NAMES = list(KINDS)
KINDS_HELP = "Events that it is told of. Empty: all of them, and those that are added later."


class WebhookSerializer(serializers.Serializer):
    """A webhook, without its secret."""

    id = serializers.UUIDField()
    tenant = serializers.CharField(source="tenant.slug")
    name = serializers.CharField()
    url = serializers.CharField()
    events = serializers.ListField(source="kinds", child=serializers.CharField(), help_text=KINDS_HELP)
    status = serializers.ChoiceField(
        WebhookStatus.choices, help_text="failing: its last attempt failed, and others follow."
    )
    disabled_at = serializers.DateTimeField(allow_null=True)
    disabled_cause = serializers.CharField(
        allow_blank=True, help_text="person, gone (it answered 410), failing (for days). Empty while enabled."
    )
    disabled_reason = serializers.CharField(allow_blank=True, help_text="For a person.")
    failures = serializers.IntegerField(help_text="Attempts in a row that failed.")
    failing_since = serializers.DateTimeField(allow_null=True)
    previous_secret_until = serializers.DateTimeField(
        source="previous_until", allow_null=True, help_text="Until then the secret before the last rotation signs, too."
    )
    created_at = serializers.DateTimeField()


class SecretWebhookSerializer(WebhookSerializer):
    """A webhook with a secret that was just made."""

    secret = serializers.CharField(
        allow_null=True,
        help_text="Signs its messages. In this answer alone; null when the request is answered again for its "
        "Idempotency-Key.",
    )


class NewWebhookSerializer(StrictSerializer):
    """A webhook to be made."""

    tenant = TenantField(help_text="Slug.")
    name = serializers.CharField(max_length=100)
    url = serializers.CharField(
        max_length=LONGEST_URL, help_text="https://, to a public address or one that the operator allows."
    )
    events = serializers.ListField(
        source="kinds", child=serializers.ChoiceField(KIND_NAMES), default=list, help_text=KINDS_HELP
    )


class WebhookChangesSerializer(StrictSerializer):
    """What of a webhook is to change; the rest stays."""

    name = serializers.CharField(max_length=100, required=False)
    url = serializers.CharField(max_length=LONGEST_URL, required=False, help_text="What waits goes there, too.")
    events = serializers.ListField(
        source="kinds", child=serializers.ChoiceField(KIND_NAMES), required=False, help_text=KINDS_HELP
    )
    enabled = serializers.BooleanField(required=False, help_text="Whether it is sent to. What waits goes on waiting.")
    reason = serializers.CharField(
        max_length=500, required=False, default="", allow_blank=True, help_text="Kept in the audit trail."
    )


class DeliveryAttemptSerializer(serializers.Serializer):
    """One try at a delivery."""

    number = serializers.IntegerField()
    at = serializers.DateTimeField()
    status_code = serializers.IntegerField(allow_null=True, help_text="Null: there was no answer.")
    seconds = serializers.FloatField()
    answer = serializers.CharField(
        source="text", allow_blank=True, help_text="The beginning of the answer, without secrets."
    )
    error = serializers.CharField(allow_blank=True, help_text="Why there was no answer, or what it means.")


class DeliverySerializer(serializers.Serializer):
    """An event on its way to a webhook."""

    id = serializers.UUIDField(help_text="The `webhook-id` of its messages, the same in every attempt.")
    webhook = serializers.UUIDField(source="webhook_id")
    event = serializers.CharField(source="kind", help_text="webhook.ping is a test.")
    event_id = serializers.IntegerField(allow_null=True, help_text="Its number in the event log. Null for a ping.")
    swarm = serializers.UUIDField(source="swarm_id", allow_null=True)
    status = serializers.ChoiceField(DeliveryStatus.choices, help_text="failed: given up.")
    attempts = serializers.IntegerField(help_text="Those that were begun.")
    next_at = serializers.DateTimeField(allow_null=True, help_text="When it is tried next, while pending.")
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class DeliveryDetailSerializer(DeliverySerializer):
    """A delivery with what is sent, and what came of each attempt."""

    body = serializers.CharField(help_text="As it is sent and signed, byte for byte.")
    tried = DeliveryAttemptSerializer(many=True, help_text="Attempts that are over, the first one first.")


_ID = "019a9b3c-8b20-7f11-8c11-5d0c2a7e9f10"
_WEBHOOK = {
    "id": _ID,
    "tenant": "acme",
    "name": "billing",
    "url": "https://billing.example.com/hooks",
    "events": ["budget.alert", "budget.exhausted"],
    "status": "enabled",
    "disabled_at": None,
    "disabled_cause": "",
    "disabled_reason": "",
    "failures": 0,
    "failing_since": None,
    "previous_secret_until": None,
    "created_at": "2026-11-26T05:12:44.120332Z",
}
_DELIVERY = {
    "id": "019a9b3c-9c31-7a22-9d22-6e1d3b8fa021",
    "webhook": _ID,
    "event": "budget.alert",
    "event_id": 48112,
    "swarm": None,
    "status": "delivered",
    "attempts": 1,
    "next_at": None,
    "created_at": "2026-11-26T05:20:01.000412Z",
    "finished_at": "2026-11-26T05:20:01.731902Z",
}
NEW_WEBHOOK_EXAMPLE = OpenApiExample(
    "For billing",
    {
        "tenant": "acme",
        "name": "billing",
        "url": "https://billing.example.com/hooks",
        "events": ["budget.alert", "budget.exhausted"],
    },
    request_only=True,
)
WEBHOOK_EXAMPLE = OpenApiExample("For billing", _WEBHOOK, response_only=True, status_codes=["200"])
SECRET_EXAMPLE = OpenApiExample(
    "With its secret", {**_WEBHOOK, "secret": "whsec_…"}, response_only=True, status_codes=["200", "201"]
)
DELIVERY_EXAMPLE = OpenApiExample("Delivered", _DELIVERY, response_only=True, status_codes=["200", "201"])
DELIVERY_DETAIL_EXAMPLE = OpenApiExample(
    "Delivered at the first attempt",
    {
        **_DELIVERY,
        "body": '{"type":"budget.alert","timestamp":"2026-11-26T05:20:00.941202Z","data":{"event_id":48112,'
        '"tenant":"acme","level":80,"cause":"spent","enforcement":"hard",'
        '"budget_id":"019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11","period":"2026-11","holder":"",'
        '"owed_usd":"40.00125","limit_usd":"50.00"}}',
        "tried": [
            {
                "number": 1,
                "at": "2026-11-26T05:20:01.622114Z",
                "status_code": 204,
                "seconds": 0.1098,
                "answer": "",
                "error": "",
            }
        ],
    },
    response_only=True,
    status_codes=["200"],
)
