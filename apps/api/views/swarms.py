"""Swarms: submitting, watching and steering them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.db.models import F, QuerySet
from django.http import HttpResponseBase
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from apps.api.conditional import Conditional
from apps.api.filters import SwarmFilter, TaskFilter
from apps.api.idempotency import idempotent
from apps.api.pagination import Pages
from apps.api.schema import CONFLICT, IDEMPOTENCY_KEY, INVALID, KEY_REUSED, NOT_FOUND
from apps.api.serializers.base import NoBody, StrictSerializer
from apps.api.serializers.swarms import (
    SUBMISSION_EXAMPLES,
    SWARM_EXAMPLE,
    PauseSerializer,
    SubmissionSerializer,
    SwarmSerializer,
    SwarmSummarySerializer,
    TerminationSerializer,
)
from apps.api.serializers.tasks import EventPageSerializer, TaskSerializer, page_of
from apps.api.views.base import Door
from apps.events import log
from apps.swarms.actions import lifecycle
from apps.swarms.actions.submit import submit
from apps.swarms.doubts import doubts_about
from apps.swarms.live import live_of, with_live
from apps.swarms.models import Swarm, Task
from apps.swarms.status import as_json, summaries, swarm_status
from apps.swarms.waiting import waiting_reasons
from apps.tenants.models import User

EVENTS_PER_PAGE = 200
ADDRESSES = {
    "url": "swarm",
    "tasks_url": "swarm-tasks",
    "events_url": "swarm-events",
    "artifacts_url": "swarm-artifacts",
}
"""What a swarm's document says where to find, and the view that is there."""


class SwarmDoor(Door):
    """A view of swarms, those that the caller may see."""

    def visible(self) -> QuerySet[Swarm]:
        return Swarm.objects.visible_to(self.principal).select_related("tenant").defer("spec")

    def whole(self) -> QuerySet[Swarm]:
        """Those, with what the document of one reads beside its row."""
        return with_live(self.visible())

    def document(self, swarm: Swarm) -> dict[str, Any]:
        return self.with_urls(swarm_status(swarm))

    def with_urls(self, status: dict[str, Any]) -> dict[str, Any]:
        """The JSON document of a status, with the addresses of what belongs to the swarm."""
        addresses = {
            name: self.request.build_absolute_uri(reverse(f"api:{route}", args=[status["id"]]))
            for name, route in ADDRESSES.items()
        }
        return {**as_json(status), **addresses}


@extend_schema(tags=["swarms"])
class Swarms(SwarmDoor, Conditional, ListAPIView):
    serializer_class = SwarmSummarySerializer
    pagination_class = Pages
    filterset_class = SwarmFilter
    ordering = ("-created_at", "-id")

    def get_queryset(self) -> QuerySet[Swarm]:
        return Swarm.objects.none() if getattr(self, "swagger_fake_view", False) else self.visible()

    @extend_schema(summary="List swarms", operation_id="swarms_list")
    def get(self, request: Request) -> Response:
        """The swarms that you may see, newest first; each one's agents and metrics are at its `url`."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        return self.get_paginated_response([self.with_urls(status) for status in summaries(page)])

    @extend_schema(
        summary="Submit a swarm",
        operation_id="swarms_create",
        request=SubmissionSerializer,
        responses={201: SwarmSerializer, **NOT_FOUND, **CONFLICT, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[*SUBMISSION_EXAMPLES, SWARM_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Checks a spec and queues the swarm. Every error of the spec is listed, its path in the spec as `attr`.

        What can never run here is an error of the spec too: a model without a price, more replicas than the whole pool.
        A model that its provider does not list is no error: `warnings` tells it.
        409 when the tenant takes nothing new. Needs swarm:create.
        """
        body = SubmissionSerializer(data=request.data, context={"principal": self.principal})
        body.is_valid(raise_exception=True)
        assert isinstance(request.user, User)
        swarm = submit(
            body.validated_data["spec"], tenant=body.validated_data["tenant"], by=self.principal, user=request.user
        )
        warnings = [{"attr": doubt.path, "detail": doubt.message} for doubt in doubts_about(swarm)]
        document = {**self.document(swarm), "warnings": warnings}
        return Response(document, 201, headers={"Location": self.location_of(document)})

    def location_of(self, document: Any) -> str:
        return reverse("api:swarm", args=[document["id"]])


class SwarmDetail(SwarmDoor, Conditional):
    @extend_schema(
        summary="One swarm",
        responses=SwarmSerializer,
        tags=["swarms"],
        operation_id="swarms_retrieve",
        examples=[SWARM_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> HttpResponseBase:
        """State, progress, agents, metrics and costs of a swarm, as of now."""
        swarm = self.find(self.whole(), pk=id)
        same = self.unchanged(swarm.version, swarm.tenant.slug, live_of(swarm).mark)
        return same or Response(self.document(swarm))


class SwarmAct(SwarmDoor):
    """An act on a swarm: its body is read, the act done, the swarm as it then is answered."""

    body: type[StrictSerializer] = NoBody
    act: Callable[..., Any]

    def perform(self, request: Request, id: uuid.UUID) -> Response:
        swarm = self.find(self.visible(), pk=id)
        body = self.body(data=request.data)
        body.is_valid(raise_exception=True)
        type(self).act(swarm, by=self.principal, **body.validated_data)
        return Response(self.document(self.whole().get(pk=id)))


def _act(summary: str, name: str, body: type[StrictSerializer]) -> Callable[[Any], Any]:
    return extend_schema(
        summary=summary,
        operation_id=f"swarms_{name}",
        request=body,
        responses={200: SwarmSerializer, **CONFLICT},
        tags=["swarms"],
    )


class SwarmTerminate(SwarmAct):
    body = TerminationSerializer
    act = staticmethod(lifecycle.terminate)

    @_act("Terminate a swarm", "terminate", TerminationSerializer)
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Stops it for good: nothing new starts, calls in flight are cancelled. Needs swarm:terminate."""
        return self.perform(request, id)


class SwarmPause(SwarmAct):
    body = PauseSerializer
    act = staticmethod(lifecycle.pause)

    @_act("Pause a swarm", "pause", PauseSerializer)
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Starts nothing new until it is resumed; calls in flight finish. Needs swarm:update."""
        return self.perform(request, id)


class SwarmResume(SwarmAct):
    act = staticmethod(lifecycle.resume)

    @_act("Resume a swarm", "resume", NoBody)
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Goes on where it was paused, through the queue if it never started. Needs swarm:update."""
        return self.perform(request, id)


class SwarmRetry(SwarmAct):
    act = staticmethod(lifecycle.retry_failed)

    @_act("Retry failed tasks", "retry", NoBody)
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Runs the failed tasks again, and those cancelled because of them. Needs swarm:update."""
        return self.perform(request, id)


class SwarmTasks(SwarmDoor, ListAPIView):
    serializer_class = TaskSerializer
    pagination_class = Pages
    filterset_class = TaskFilter
    ordering = ("place",)

    def get_queryset(self) -> QuerySet[Task]:
        if getattr(self, "swagger_fake_view", False):
            return Task.objects.none()
        swarm = self.find(Swarm.objects.visible_to(self.principal).only("pk"), pk=self.kwargs["id"])
        # One number that orders them all, so that a page's cursor is exact inside a long list of one step too.
        place = F("step__position") * 2**31 + F("index")
        return Task.objects.filter(swarm=swarm).annotate(place=place).named().defer("result", "swarm__spec")

    @extend_schema(summary="Tasks of a swarm", tags=["swarms"], operation_id="swarms_tasks")
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """The tasks of a swarm in the order of its spec, without prompts and results."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        context = {"request": request, "reasons": waiting_reasons(page)}
        return self.get_paginated_response(TaskSerializer(page, many=True, context=context).data)


class SwarmEvents(SwarmDoor):
    @extend_schema(
        summary="Events of a swarm",
        responses={200: EventPageSerializer, **INVALID},
        tags=["swarms"],
        operation_id="swarms_events",
        parameters=[
            OpenApiParameter("after", OpenApiTypes.INT, description="Id of the last event you saw.", required=False)
        ],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """What happened to a swarm, oldest first. `next` is null when there is no more for now.

        Ask again with `after` set to the id of the last event you saw: no event is missed and none comes twice.
        """
        swarm = self.find(Swarm.objects.visible_to(self.principal).only("pk"), pk=id)
        after = _position(request.query_params.get("after", ""))
        events = log.read(after, limit=EVENTS_PER_PAGE + 1, swarm_id=swarm.pk)
        page, more = events[:EVENTS_PER_PAGE], len(events) > EVENTS_PER_PAGE
        here = request.build_absolute_uri()
        return Response(page_of(page, replace_query_param(here, "after", page[-1].pk) if more else None))


def _position(after: str) -> int:
    """The place in the log that ``after`` names; nothing is the start. Raises ValidationError."""
    if not after:
        return log.START
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise ValidationError({"after": ["This is not the id of an event."]}, code="invalid")
    return int(after)
