"""Tasks, their attempts, and events, as the API tells them."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.api.serializers.base import UsdField
from apps.events.models import Event
from apps.execution.models import Outcome
from apps.swarms.models import FailureCode, Task, TaskStatus


@extend_schema_field(OpenApiTypes.ANY)
class AnyJSONField(serializers.JSONField):
    """A JSON value of whatever kind, null too."""


class TaskSerializer(serializers.Serializer):
    """A task in a list: all but its prompt and result."""

    id = serializers.UUIDField()
    swarm = serializers.UUIDField(source="swarm_id")
    key = serializers.CharField(help_text='Its name inside the swarm: "brief", or "gather[0]" for one of a list.')
    step = serializers.CharField(source="step.name")
    agent = serializers.CharField(source="agent.name")
    index = serializers.IntegerField()
    item = AnyJSONField()
    status = serializers.ChoiceField(TaskStatus.choices)
    attempts = serializers.IntegerField(source="attempts_counted", help_text="Attempts that count against its retries.")
    waits_for = serializers.SerializerMethodField(help_text="Why it does not run yet; empty when it runs or is over.")
    retry_at = serializers.SerializerMethodField(help_text="When its retry is due, while it waits for one.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="Start of the last attempt.")
    finished_at = serializers.DateTimeField(allow_null=True)
    failure_code = serializers.ChoiceField(FailureCode.choices, allow_blank=True)
    error = serializers.CharField(allow_blank=True)
    degraded = serializers.BooleanField(
        help_text="Its result rests on an older answer from the cache, as no region of the provider answered."
    )
    attempts_url = serializers.SerializerMethodField()
    artifacts_url = serializers.SerializerMethodField(help_text="The files that it made.")

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_retry_at(self, task: Task) -> str | None:
        due = task.ready_at if task.status == TaskStatus.WAITING else None
        text: str | None = serializers.DateTimeField().to_representation(due) if due else None
        return text

    def get_waits_for(self, task: Task) -> str:
        reason: str = self.context["reasons"][task.pk]
        return reason

    @extend_schema_field(serializers.URLField())
    def get_attempts_url(self, task: Task) -> str:
        url: str = self.context["request"].build_absolute_uri(reverse("api:task-attempts", args=[task.pk]))
        return url

    @extend_schema_field(serializers.URLField())
    def get_artifacts_url(self, task: Task) -> str:
        of_swarm = reverse("api:swarm-artifacts", args=[task.swarm_id])
        url: str = self.context["request"].build_absolute_uri(f"{of_swarm}?task={task.pk}")
        return url


class TaskDetailSerializer(TaskSerializer):
    """A task with the template of its prompt and its result."""

    needs = serializers.ListField(source="step.needs", child=serializers.CharField(), help_text="Steps it waits for.")
    prompt = serializers.CharField(source="step.prompt", help_text="The template; attempts keep what was sent.")
    result = AnyJSONField()


class AttemptSerializer(serializers.Serializer):
    """One finished try at a task."""

    id = serializers.UUIDField()
    number = serializers.IntegerField()
    outcome = serializers.ChoiceField(Outcome.choices)
    runner = serializers.UUIDField(source="runner_id", allow_null=True)
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField()
    seconds = serializers.FloatField()
    failure_code = serializers.ChoiceField(FailureCode.choices, allow_blank=True)
    error = serializers.CharField(allow_blank=True)
    context = serializers.DictField(  # type: ignore[assignment]
        help_text="What it ran with: model, region, prompt, limits."
    )
    requests = serializers.IntegerField(help_text="Calls to the model.")
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    estimated_usd = UsdField(source="estimated", help_text="Reserved for its calls.")
    cost_usd = UsdField(source="cost", help_text="What its calls cost.")


class EventSerializer(serializers.Serializer):
    """One thing that happened to a swarm."""

    id = serializers.IntegerField(help_text="Send the last one you saw as `after`.")
    at = serializers.DateTimeField()
    kind = serializers.CharField(help_text='Noun, dot, verb: "task.succeeded".')
    task = serializers.UUIDField(source="task_id", allow_null=True)
    data = serializers.DictField()  # type: ignore[assignment]


class EventPageSerializer(serializers.Serializer):
    """Events in reading order."""

    next = serializers.URLField(allow_null=True, help_text="Null when there is no more for now.")
    previous = serializers.URLField(allow_null=True, help_text="Always null: reading only goes forward.")
    results = EventSerializer(many=True)


def page_of(events: list[Event], next_url: str | None) -> dict[str, Any]:
    """The page that tells events; there is no page before it, since readers only go forward."""
    return {"next": next_url, "previous": None, "results": EventSerializer(events, many=True).data}
