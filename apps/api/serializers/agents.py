"""Agents of swarms, as the API tells them."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.swarms.models import Runtime


class RetrySerializer(serializers.Serializer):
    """What its spec says of retries; what it does not say is left out and has its default."""

    max_retries = serializers.IntegerField(required=False)
    base_delay_s = serializers.FloatField(required=False)
    factor = serializers.FloatField(required=False)
    max_delay_s = serializers.FloatField(required=False)


class CacheSerializer(serializers.Serializer):
    answers = serializers.BooleanField(required=False)
    degraded = serializers.BooleanField(required=False)
    max_age_s = serializers.IntegerField(required=False)


class AgentSpecSerializer(serializers.Serializer):
    """An agent that a swarm employs, as its spec has it, with what the tenant's overrides made of it."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant = serializers.CharField(source="swarm.tenant.slug")
    swarm = serializers.UUIDField(source="swarm_id")
    runtime = serializers.ChoiceField(Runtime.choices)
    model = serializers.CharField(allow_blank=True)
    instructions = serializers.CharField(allow_blank=True)
    url = serializers.CharField(source="options.url", default=None, allow_null=True, help_text="Of an http agent.")
    callable = serializers.CharField(
        source="options.callable", default=None, allow_null=True, help_text="Of a python agent."
    )
    replicas = serializers.IntegerField(help_text="How many of its tasks run at once.")
    memory_gb = serializers.FloatField(help_text="Asked of the pool, for each replica.")
    cpu = serializers.FloatField(help_text="In cores.")
    max_output_tokens = serializers.IntegerField()
    timeout_s = serializers.FloatField()
    retry = RetrySerializer()
    cache = CacheSerializer(
        source="options.cache", default=None, allow_null=True, help_text="Which answers may come from the cache."
    )
    files = serializers.BooleanField(
        source="options.files", default=False, help_text="Whether its model is given a tool to save files."
    )


AGENT_EXAMPLE = OpenApiExample(
    "A researcher",
    {
        "id": "019a9b3c-5d1f-7a10-8c22-6a0b1c5e7d90",
        "name": "researcher",
        "tenant": "acme",
        "swarm": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "runtime": "llm",
        "model": "simulated:small",
        "instructions": "Find facts. Be brief.",
        "url": None,
        "callable": None,
        "replicas": 3,
        "memory_gb": 2.0,
        "cpu": 0.5,
        "max_output_tokens": 300,
        "timeout_s": 60.0,
        "retry": {"max_retries": 3},
        "cache": None,
        "files": False,
    },
    response_only=True,
    status_codes=["200"],
)
