"""Files that agents made, as the API tells them."""

from __future__ import annotations

from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, extend_schema_field
from rest_framework import serializers

from apps.execution.models import Artifact


class ArtifactSerializer(serializers.Serializer):
    """A file that an agent made: all but its bytes."""

    id = serializers.UUIDField()
    swarm = serializers.UUIDField(source="swarm_id")
    task = serializers.UUIDField(source="task_id", allow_null=True, help_text="The task that made it.")
    attempt = serializers.UUIDField(source="attempt_id", allow_null=True, help_text="The attempt that made it.")
    name = serializers.CharField(help_text='As its agent named it; may have folders: "out/brief.md".')
    media_type = serializers.CharField(help_text="As its agent told it; nobody has checked it.")
    size = serializers.IntegerField(min_value=0, help_text="In bytes.")
    sha256 = serializers.RegexField("^[0-9a-f]{64}$", help_text="Of its bytes, in hex; the `ETag` of its download.")
    created_at = serializers.DateTimeField()
    download_url = serializers.SerializerMethodField()

    @extend_schema_field(serializers.URLField())
    def get_download_url(self, artifact: Artifact) -> str:
        url: str = self.context["request"].build_absolute_uri(reverse("api:artifact-content", args=[artifact.pk]))
        return url


ARTIFACT_EXAMPLE = OpenApiExample(
    "A file",
    {
        "id": "019a9b3c-7f00-7c3a-9f10-2b6f6f0f1c11",
        "swarm": "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11",
        "task": "019a9b3c-5d20-7c3a-9f10-2b6f6f0f1c11",
        "attempt": "019a9b3c-6e00-7c3a-9f10-2b6f6f0f1c11",
        "name": "out/brief.md",
        "media_type": "text/markdown",
        "size": 4812,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "created_at": "2026-11-26T07:20:00Z",
        "download_url": "https://swarmdesk.example/api/v1/artifacts/019a9b3c-7f00-7c3a-9f10-2b6f6f0f1c11/content/",
    },
    response_only=True,
    status_codes=["200"],
)
