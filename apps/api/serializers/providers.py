"""Model providers and their regions, as the API tells them."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from apps.providers.breaker import State
from apps.providers.directory import recent_latencies
from apps.providers.health import judge
from apps.providers.latency import quantile
from apps.providers.models import HealthStatus, Provider, ProviderKind, Region
from apps.providers.standing import Traffic


class RegionLimitsSerializer(serializers.Serializer):
    requests_per_minute = serializers.IntegerField(allow_null=True)
    tokens_per_minute = serializers.IntegerField(allow_null=True)
    concurrency = serializers.IntegerField(allow_null=True)


class RegionHourSerializer(serializers.Serializer):
    """The calls of the last hour."""

    calls = serializers.IntegerField()
    failed = serializers.IntegerField(help_text="5xx, silence, no connection.")
    limited = serializers.IntegerField(help_text="Answered 429.")
    error_rate = serializers.FloatField(help_text="0 to 1.")
    p50_ms = serializers.FloatField(allow_null=True)
    p99_ms = serializers.FloatField(allow_null=True)


class RegionSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    order = serializers.IntegerField(help_text="Lower is preferred.")
    is_enabled = serializers.BooleanField()
    is_draining = serializers.BooleanField(help_text="Gets no new calls.")
    state = serializers.ChoiceField([str(state.value) for state in State], help_text="Of its breaker.")
    is_held = serializers.BooleanField(help_text="The breaker was opened by a person, and is closed by nobody else.")
    since = serializers.DateTimeField(allow_null=True, help_text="When the state last changed; null: never.")
    cause = serializers.CharField(allow_blank=True, help_text="Why it changed.")
    p99_ms = serializers.FloatField(allow_null=True, help_text="Of the last hundred calls; null without any lately.")
    samples = serializers.IntegerField(help_text="How many calls that is of.")
    slowed_until = serializers.DateTimeField(allow_null=True, help_text="It asked for fewer calls until then.")
    limits = RegionLimitsSerializer()
    last_hour = RegionHourSerializer()


class ProviderHealthSerializer(serializers.Serializer):
    status = serializers.ChoiceField(HealthStatus.choices)
    since = serializers.DateTimeField()
    primary = serializers.CharField(allow_blank=True, help_text="The region that is preferred.")
    serving = serializers.CharField(allow_blank=True, help_text="The region that it failed over to.")
    reason = serializers.CharField(allow_blank=True, help_text="no_healthy_regions, or empty.")


class ProviderSerializer(serializers.Serializer):
    """Who serves models, and how each of its regions does."""

    id = serializers.UUIDField()
    name = serializers.CharField(help_text="What stands before the colon in an agent's model.")
    kind = serializers.ChoiceField(ProviderKind.choices)
    is_enabled = serializers.BooleanField()
    health = ProviderHealthSerializer()
    regions = RegionSerializer(many=True)


def told(provider: Provider, traffic: dict[Any, Traffic]) -> dict[str, Any]:
    """A provider as the serializer wants it; its regions are prefetched with breaker and window."""
    regions = list(provider.regions.all())
    health = judge(regions)
    return {
        "id": provider.pk,
        "name": provider.name,
        "kind": provider.kind,
        "is_enabled": provider.is_enabled,
        "health": {
            "status": health.status,
            "since": provider.health_since,
            "primary": health.primary,
            "serving": health.serving,
            "reason": health.reason,
        },
        "regions": [_region(region, traffic[region.pk]) for region in regions],
    }


def _region(region: Region, hour: Traffic) -> dict[str, Any]:
    now = timezone.now()
    breaker, recent, circuit = getattr(region, "breaker", None), recent_latencies(region, now), region.circuit
    slowed = breaker.slowed_until if breaker else None
    return {
        "id": region.pk,
        "name": region.name,
        "order": region.order,
        "is_enabled": region.is_enabled,
        "is_draining": region.is_draining,
        "state": circuit.state.value,
        "is_held": circuit.held,
        "since": breaker.since if breaker and breaker.cause else None,
        "cause": breaker.cause if breaker else "",
        "p99_ms": _ms(quantile(recent, 0.99)),
        "samples": len(recent),
        "slowed_until": slowed if slowed and slowed > now else None,
        "limits": {name: getattr(region, name) for name in ("requests_per_minute", "tokens_per_minute", "concurrency")},
        "last_hour": {
            "calls": hour.calls,
            "failed": hour.errors,
            "limited": hour.limited,
            "error_rate": round(hour.error_rate, 4),
            "p50_ms": _ms(hour.p50_s),
            "p99_ms": _ms(hour.p99_s),
        },
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


PROVIDER_EXAMPLE = OpenApiExample(
    "Failed over",
    {
        "id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "name": "openai",
        "kind": "openai",
        "is_enabled": True,
        "health": {
            "status": "failed_over",
            "since": "2026-11-26T09:12:03Z",
            "primary": "us-east",
            "serving": "eu-west",
            "reason": "",
        },
        "regions": [
            {
                "id": "01890a5d-ac96-774b-bcce-b302099a8058",
                "name": "us-east",
                "order": 1,
                "is_enabled": True,
                "is_draining": False,
                "state": "open",
                "is_held": False,
                "since": "2026-11-26T09:12:03Z",
                "cause": "5 calls failed within 30 s; the last: answered 503",
                "p99_ms": None,
                "samples": 0,
                "slowed_until": None,
                "limits": {"requests_per_minute": 5000, "tokens_per_minute": None, "concurrency": 200},
                "last_hour": {
                    "calls": 1200,
                    "failed": 9,
                    "limited": 0,
                    "error_rate": 0.0075,
                    "p50_ms": 810.0,
                    "p99_ms": 2950.0,
                },
            }
        ],
    },
    response_only=True,
    status_codes=["200"],
)
