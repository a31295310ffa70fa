"""Tasks and their attempts."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.pagination import Pages
from apps.api.schema import CONFLICT
from apps.api.serializers.base import NoBody
from apps.api.serializers.tasks import AttemptSerializer, TaskDetailSerializer
from apps.api.views.base import Door
from apps.execution.models import Attempt
from apps.swarms.actions import lifecycle
from apps.swarms.models import Task
from apps.swarms.waiting import waiting_reasons


class TaskDoor(Door):
    """A view of a task, one that the caller may see."""

    def document(self, task: Task) -> Any:
        context = {"request": self.request, "reasons": waiting_reasons([task])}
        return TaskDetailSerializer(task, context=context).data


class TaskDetail(TaskDoor):
    @extend_schema(summary="One task", responses=TaskDetailSerializer, tags=["tasks"], operation_id="tasks_retrieve")
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """A task with the template of its prompt and, once it succeeded, its result."""
        task = self.find(Task.objects.visible_to(self.principal).named(), pk=id)
        return Response(self.document(task))


class TaskRetry(TaskDoor):
    @extend_schema(
        summary="Retry a failed task",
        request=NoBody,
        responses={200: TaskDetailSerializer, **CONFLICT},
        tags=["tasks"],
        operation_id="tasks_retry",
    )
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Runs one failed task again, and what was cancelled only because of it. Needs swarm:update."""
        NoBody(data=request.data).is_valid(raise_exception=True)
        task = self.find(Task.objects.visible_to(self.principal).named(), pk=id)
        lifecycle.retry_task(task, by=self.principal)
        return Response(self.document(Task.objects.named().get(pk=task.pk)))


class TaskAttempts(Door, ListAPIView):
    serializer_class = AttemptSerializer
    pagination_class = Pages
    filter_backends: list[Any] = []
    ordering = ("started_at", "id")

    def get_queryset(self) -> QuerySet[Attempt]:
        if getattr(self, "swagger_fake_view", False):
            return Attempt.objects.none()
        task = self.find(Task.objects.visible_to(self.principal).only("pk"), pk=self.kwargs["id"])
        return Attempt.objects.filter(task=task)

    @extend_schema(summary="Attempts at a task", tags=["tasks"], operation_id="tasks_attempts")
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """The finished tries at a task, first to last, each with its error, cost and what it ran with."""
        return self.list(request)
