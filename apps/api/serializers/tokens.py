"""API tokens, as the API tells them, and the body that makes one."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.api.serializers.base import StrictSerializer, TenantField
from apps.tenants.actions import LONGEST_TOKEN_LIFE
from apps.tenants.roles import Permission, Role

PERMISSION_NAMES = [str(name) for name in Permission]


class TokenSerializer(serializers.Serializer):
    """A token without its text, which nobody keeps."""

    id = serializers.UUIDField(source="uid")
    name = serializers.CharField(allow_blank=True, help_text="What it is for.")
    start = serializers.CharField(source="token_key", help_text="Its first characters, as the audit trail names it.")
    user = serializers.CharField(source="user.username", help_text="For whom it acts.")
    tenant = serializers.CharField(source="tenant.slug")
    role = serializers.ChoiceField(Role.choices, allow_blank=True, help_text="Empty: every role held there.")
    permissions = serializers.ListField(
        child=serializers.ChoiceField(PERMISSION_NAMES), help_text="All that it may do. Empty: what its roles may."
    )
    created_at = serializers.DateTimeField(source="created")
    expires_at = serializers.DateTimeField(source="expiry", allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")


class CreatedTokenSerializer(TokenSerializer):
    """A new token, with its text."""

    token = serializers.CharField(
        allow_null=True,
        help_text="Shown in this answer alone. Null when the request is answered again for its Idempotency-Key.",
    )


class NewTokenSerializer(StrictSerializer):
    """What a new token is for."""

    tenant = TenantField(help_text="Slug of the one tenant that it reaches.")
    name = serializers.CharField(max_length=100, default="", allow_blank=True, help_text="What it is for.")
    role = serializers.ChoiceField(
        Role.choices, default="", allow_blank=True, help_text="Narrows it to one role. Empty: every role held there."
    )
    permissions = serializers.ListField(
        child=serializers.ChoiceField(PERMISSION_NAMES),
        default=list,
        max_length=len(PERMISSION_NAMES),
        help_text="Narrows it to these. Empty: what its roles may.",
    )
    expires_in_days = serializers.IntegerField(min_value=1, max_value=LONGEST_TOKEN_LIFE.days, default=90)
    user = serializers.CharField(
        max_length=150, required=False, help_text="Login name of whom it acts for. Without it: you."
    )


_TOKEN = {
    "id": "019a9b3c-7a10-7d52-9c01-0f5b3a6e2d44",
    "name": "nightly reports",
    "start": "swd_Q7mZk2LwXy9",
    "user": "operator",
    "tenant": "acme",
    "role": "",
    "permissions": ["swarm:create", "swarm:read"],
    "created_at": "2026-11-21T05:12:44.120332Z",
    "expires_at": "2027-02-19T05:12:44.119811Z",
    "last_used_at": None,
}
NEW_TOKEN_EXAMPLE = OpenApiExample(
    "For nightly reports",
    {
        "tenant": "acme",
        "name": "nightly reports",
        "permissions": ["swarm:create", "swarm:read"],
        "expires_in_days": 90,
    },
    request_only=True,
)
TOKEN_EXAMPLE = OpenApiExample("For nightly reports", _TOKEN, response_only=True, status_codes=["200"])
CREATED_EXAMPLE = OpenApiExample(
    "Made",
    {**_TOKEN, "token": "swd_Q7mZk2LwXy9…"},
    response_only=True,
    status_codes=["201"],
)
