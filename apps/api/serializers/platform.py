"""The caller, and the resource pool, as the API tells them."""

from __future__ import annotations

from rest_framework import serializers

from apps.tenants.roles import Permission, Role


class UserSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    username = serializers.CharField()
    email = serializers.CharField(allow_blank=True)
    is_platform_admin = serializers.BooleanField(source="is_superuser", help_text="Every tenant, every permission.")


class MyTenantSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    slug = serializers.CharField()
    name = serializers.CharField()
    time_zone = serializers.CharField()
    permissions = serializers.ListField(child=serializers.ChoiceField([str(name) for name in Permission]))


class MyTokenSerializer(serializers.Serializer):
    tenant = serializers.CharField(source="tenant.slug")
    name = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(Role.choices, allow_blank=True, help_text="Empty: every role held there.")
    expires_at = serializers.DateTimeField(source="expiry", allow_null=True)


class MyGrantSerializer(serializers.Serializer):
    """What was granted on one swarm, beside what roles give."""

    swarm = serializers.UUIDField(help_text="Its id.")
    name = serializers.CharField(allow_null=True, help_text="Null when you may not read it now, or it is gone.")
    tenant = serializers.CharField(help_text="Slug of its tenant.")
    permissions = serializers.ListField(child=serializers.ChoiceField([str(name) for name in Permission]))


class MeSerializer(serializers.Serializer):
    """Who the caller is and what they may do, as narrowed by the token."""

    user = UserSerializer()
    token = MyTokenSerializer(allow_null=True, help_text="The token used; null for a session.")
    tenants = MyTenantSerializer(many=True)
    permissions = serializers.ListField(
        child=serializers.ChoiceField([str(name) for name in Permission]), help_text="Held in at least one tenant."
    )
    grants = MyGrantSerializer(many=True, help_text="On single swarms, also of tenants in which you have no role.")


class CountUseSerializer(serializers.Serializer):
    used = serializers.IntegerField()
    total = serializers.IntegerField()
    percent = serializers.FloatField()


class AmountUseSerializer(serializers.Serializer):
    used = serializers.FloatField()
    total = serializers.FloatField()
    percent = serializers.FloatField()


class PoolSerializer(serializers.Serializer):
    """What swarms hold of the pool now."""

    agents = CountUseSerializer()
    memory_gb = AmountUseSerializer()
    cpu = AmountUseSerializer(help_text="In cores.")
    swarms = CountUseSerializer()
