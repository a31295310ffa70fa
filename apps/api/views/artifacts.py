"""Files that agents made: what there are, and their bytes."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.filters import ArtifactFilter
from apps.api.pagination import Pages
from apps.api.schema import UNREADABLE
from apps.api.serializers.artifacts import ARTIFACT_EXAMPLE, ArtifactSerializer
from apps.api.views.base import Door
from apps.execution.artifacts.downloading import download
from apps.execution.models import Artifact
from apps.swarms.models import Swarm

BYTES = ("application/octet-stream", "*/*")
"""What a download may come as. The first is for generators of clients, which know no other name for any bytes."""


class ArtifactDoor(Door):
    """A view of artifacts, those that the caller may see."""

    def visible(self) -> QuerySet[Artifact]:
        rows: QuerySet[Artifact] = Artifact.objects.visible_to(self.principal)
        return rows


class SwarmArtifacts(ArtifactDoor, ListAPIView):
    serializer_class = ArtifactSerializer
    pagination_class = Pages
    filterset_class = ArtifactFilter
    ordering = ("-created_at", "-id")

    def get_queryset(self) -> QuerySet[Artifact]:
        if getattr(self, "swagger_fake_view", False):
            return self.visible().none()
        swarm = self.find(Swarm.objects.visible_to(self.principal).only("pk"), pk=self.kwargs["id"])
        return self.visible().filter(swarm=swarm)

    @extend_schema(
        summary="Files of a swarm", tags=["artifacts"], operation_id="swarms_artifacts", examples=[ARTIFACT_EXAMPLE]
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """The files that agents of a swarm made, the latest first, also when the swarm is archived.

        A file is there as soon as its task has succeeded; none comes of an attempt that failed.
        """
        return self.list(request)


class ArtifactDetail(ArtifactDoor):
    @extend_schema(
        summary="One file",
        responses=ArtifactSerializer,
        tags=["artifacts"],
        operation_id="artifacts_retrieve",
        examples=[ARTIFACT_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """A file that an agent made, without its bytes: those are at its `download_url`."""
        artifact = self.find(self.visible(), pk=id)
        return Response(ArtifactSerializer(artifact, context={"request": request}).data)


class ArtifactContent(ArtifactDoor):
    has_tag = True

    @extend_schema(
        summary="Download a file",
        responses={(200, each): OpenApiTypes.BINARY for each in BYTES} | UNREADABLE,
        tags=["artifacts"],
        operation_id="artifacts_content",
    )
    def get(self, request: Request, id: uuid.UUID) -> HttpResponseBase:
        """The bytes of a file, to be saved (`Content-Disposition: attachment`). Each download is in the audit trail.

        `Content-Type` is the file's `media_type`, or `application/octet-stream` where a browser would run or show it.
        `ETag` is its SHA-256: sent in `If-None-Match`, it is answered 304 and nothing is downloaded. What is stored is
        held against it on the way: a file that is not what it was breaks off.
        """
        return download(request._request, self.find(self.visible(), pk=id), by=self.principal)

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """A file comes as what it is, whatever is asked for; only refusals are written here, and those in JSON."""
        return JSONRenderer(), JSONRenderer.media_type
