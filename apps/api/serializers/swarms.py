"""Swarms, as the API tells them, and the bodies of what is done to them.

The documents themselves come from :mod:`apps.swarms.status`; what is said of them here is for the schema, and a test
holds the two together.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field
from rest_framework import serializers

from apps.api.filters import PRIORITIES
from apps.api.serializers.base import StrictSerializer, TenantField, UsdField
from apps.swarms.models import Runtime, SwarmStatus


class ProgressSerializer(serializers.Serializer):
    total = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()
    running = serializers.IntegerField()
    pending = serializers.IntegerField(help_text="All that is still to run and does not run now.")
    percent = serializers.FloatField(help_text="Of the tasks, those that are over. Rounded down: 100 means all.")


class QueueSerializer(serializers.Serializer):
    position = serializers.IntegerField(allow_null=True)
    estimated_start = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField(allow_blank=True, help_text="Why it waits; empty when it does not.")


class AgentSerializer(serializers.Serializer):
    name = serializers.CharField()
    runtime = serializers.ChoiceField(Runtime.choices)
    model = serializers.CharField(allow_blank=True)
    replicas = serializers.IntegerField(help_text="How many of its tasks run at once.")
    total = serializers.IntegerField(help_text="Its tasks; below, how many are in each status.")
    pending = serializers.IntegerField()
    ready = serializers.IntegerField()
    running = serializers.IntegerField()
    waiting = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    cancelled = serializers.IntegerField()


class MetricsSerializer(serializers.Serializer):
    error_rate = serializers.FloatField(allow_null=True, help_text="Failed attempts of those finished: 0 to 1.")
    p50_seconds = serializers.FloatField(allow_null=True, help_text="Half of the finished tasks took at most this.")
    p99_seconds = serializers.FloatField(allow_null=True)
    tokens = serializers.IntegerField()


class CostSerializer(serializers.Serializer):
    llm_usd = UsdField()
    infrastructure_usd = UsdField()
    storage_usd = UsdField()
    adjustment_usd = UsdField()
    total_usd = UsdField()
    reserved_usd = UsdField(help_text="Held for calls in flight, beside the total.")


class RunBudgetSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    limit_usd = UsdField()
    spent_usd = UsdField()
    reserved_usd = UsdField()
    remaining_usd = UsdField()
    percent = serializers.FloatField()


class SwarmSummarySerializer(serializers.Serializer):
    """A swarm in a list: all but its agents and metrics."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant = serializers.CharField(help_text="Slug.")
    status = serializers.ChoiceField(SwarmStatus.choices)
    status_reason = serializers.CharField(allow_blank=True, help_text="Why it was paused, stopped or failed.")
    priority = serializers.ChoiceField(PRIORITIES)
    progress = ProgressSerializer()
    queue = QueueSerializer()
    cost = CostSerializer()
    budget = RunBudgetSerializer(allow_null=True, help_text="Its own, from `budget_usd` of the spec.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    archived = serializers.BooleanField(
        help_text="Whether its archive is in object storage. A terminated swarm is archived moments after its end."
    )
    url = serializers.URLField()
    tasks_url = serializers.URLField()
    events_url = serializers.URLField()
    artifacts_url = serializers.URLField(help_text="The files that its agents made.")


class DoubtSerializer(serializers.Serializer):
    """What may not work although nothing forbids it."""

    attr = serializers.CharField(help_text="Its path in the spec.")
    detail = serializers.CharField()


class SwarmSerializer(SwarmSummarySerializer):
    """A swarm: state, progress, agents, metrics and costs, as of now."""

    agents = AgentSerializer(many=True)
    metrics = MetricsSerializer()
    warnings = DoubtSerializer(
        many=True, required=False, help_text="When it was just submitted: models that their provider does not list."
    )


class TerminationSerializer(StrictSerializer):
    """Why a swarm is terminated; kept in the audit trail."""

    reason = serializers.CharField(max_length=1000)


class PauseSerializer(StrictSerializer):
    """Why a swarm is paused; may be left out."""

    reason = serializers.CharField(max_length=1000, required=False, allow_blank=True)


@extend_schema_field(
    {
        "oneOf": [
            {"type": "object", "additionalProperties": {}, "description": "The spec."},
            {"type": "string", "description": "The spec as YAML or JSON text."},
        ]
    }
)
class SpecField(serializers.Field):
    """A spec as an object, or as the text of a YAML or JSON file. What it says is judged by the domain."""

    default_error_messages = {"invalid": "A spec is an object, or YAML or JSON text."}

    def to_internal_value(self, data: Any) -> dict[str, Any] | str:
        if not isinstance(data, dict | str):
            self.fail("invalid")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class SubmissionSerializer(StrictSerializer):
    """A spec, and the tenant it runs for."""

    tenant = TenantField(help_text="Slug.")
    spec = SpecField()


_SPEC = {
    "swarm": "market-brief",
    "budget_usd": 2.50,
    "agents": {
        "researcher": {"model": "simulated:small", "instructions": "Find facts. Be brief.", "replicas": 3},
        "writer": {"model": "simulated:large", "instructions": "Write plainly."},
    },
    "tasks": [
        {
            "id": "gather",
            "agent": "researcher",
            "for_each": ["pricing", "rivals", "demand"],
            "prompt": "Collect three facts on {{ item }}.",
        },
        {"id": "brief", "agent": "writer", "needs": ["gather"], "prompt": "Write one page from: {{ results.gather }}"},
    ],
}
_YAML = """\
swarm: hello
agents:
  greeter: {model: "simulated:small", instructions: Be kind.}
tasks:
  - {id: greet, agent: greeter, prompt: Say hello.}
"""
SUBMISSION_EXAMPLES = [
    OpenApiExample("An object", {"tenant": "acme", "spec": _SPEC}, request_only=True),
    OpenApiExample("YAML text", {"tenant": "acme", "spec": _YAML}, request_only=True),
]
_COUNTS = {"pending": 0, "ready": 0, "waiting": 0, "failed": 0, "cancelled": 0}
SWARM_EXAMPLE = OpenApiExample(
    "Running",
    {
        "id": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "name": "market-brief",
        "tenant": "acme",
        "status": "running",
        "status_reason": "",
        "priority": "normal",
        "queue": {"position": None, "estimated_start": None, "reason": ""},
        "created_at": "2026-11-21T05:12:44.120332Z",
        "started_at": "2026-11-21T05:12:44.512031Z",
        "finished_at": None,
        "archived": False,
        "progress": {
            "total": 4,
            "succeeded": 2,
            "failed": 0,
            "cancelled": 0,
            "running": 1,
            "pending": 1,
            "percent": 50.0,
        },
        "agents": [
            {
                "name": "researcher",
                "runtime": "llm",
                "model": "simulated:small",
                "replicas": 3,
                "total": 3,
                **_COUNTS,
                "running": 1,
                "succeeded": 2,
            },
            {
                "name": "writer",
                "runtime": "llm",
                "model": "simulated:large",
                "replicas": 1,
                "total": 1,
                **_COUNTS,
                "pending": 1,
                "running": 0,
                "succeeded": 0,
            },
        ],
        "metrics": {"error_rate": 0.0, "p50_seconds": 0.212, "p99_seconds": 0.231, "tokens": 412},
        "cost": {
            "llm_usd": "0.00021",
            "infrastructure_usd": "0.00",
            "storage_usd": "0.00",
            "adjustment_usd": "0.00",
            "total_usd": "0.00021",
            "reserved_usd": "0.0018",
        },
        "budget": {
            "id": "019a9b3c-5d2f-7b60-8a11-93be2a0c77d2",
            "name": "market-brief (run 2b6f6f0f1c11)",
            "limit_usd": "2.50",
            "spent_usd": "0.00021",
            "reserved_usd": "0.0018",
            "remaining_usd": "2.49799",
            "percent": 0.1,
        },
        "url": "https://swarmdesk.example/api/v1/swarms/019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11/",
        "tasks_url": "https://swarmdesk.example/api/v1/swarms/019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11/tasks/",
        "events_url": "https://swarmdesk.example/api/v1/swarms/019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11/events/",
        "artifacts_url": "https://swarmdesk.example/api/v1/swarms/019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11/artifacts/",
    },
    response_only=True,
    status_codes=["200", "201"],
)
