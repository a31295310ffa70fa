"""The agents that swarms employ."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.filters import AgentFilter
from apps.api.pagination import Pages
from apps.api.serializers.agents import AGENT_EXAMPLE, AgentSpecSerializer
from apps.api.views.base import Door
from apps.swarms.models import Agent
from apps.tenants.roles import Permission


class AgentDoor(Door):
    """A view of agents, those of swarms that the caller may see."""

    def visible(self) -> QuerySet[Agent]:
        rows: QuerySet[Agent] = self.principal.limit(
            Agent.objects.all(), Permission.SWARM_READ, "swarm__tenant_id", swarm_path="swarm_id"
        )
        return rows.select_related("swarm__tenant").defer("swarm__spec")


@extend_schema(tags=["agents"])
class Agents(AgentDoor, ListAPIView):
    serializer_class = AgentSpecSerializer
    pagination_class = Pages
    filterset_class = AgentFilter
    ordering = ("-id",)

    def get_queryset(self) -> QuerySet[Agent]:
        return Agent.objects.none() if getattr(self, "swagger_fake_view", False) else self.visible()

    @extend_schema(summary="List agents", operation_id="agents_list", examples=[AGENT_EXAMPLE])
    def get(self, request: Request) -> Response:
        """The agents of the swarms that you may see, those of the latest swarm first (swarm:read)."""
        return self.list(request)


class AgentDetail(AgentDoor):
    @extend_schema(
        summary="One agent",
        operation_id="agents_retrieve",
        tags=["agents"],
        responses=AgentSpecSerializer,
        examples=[AGENT_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """What a spec says of one agent; how its tasks stand is in the document of its swarm."""
        return Response(AgentSpecSerializer(self.find(self.visible(), pk=id)).data)
