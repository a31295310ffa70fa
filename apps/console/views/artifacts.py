"""Downloads of files that agents made."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect

from apps.console.views.base import ConsoleView
from apps.execution.artifacts.downloading import download
from apps.execution.errors import ArtifactUnreadable
from apps.execution.models import Artifact


class ArtifactDownload(ConsoleView):
    """``GET /artifacts/ID/``: the file; where it cannot be read, its swarm's page with the reason."""

    http_method_names = ["get", "head"]

    def get(self, request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
        artifact: Artifact = get_object_or_404(Artifact.objects.visible_to(self.principal), pk=pk)
        try:
            return download(request, artifact, by=self.principal)
        except ArtifactUnreadable as unreadable:
            messages.error(request, str(unreadable))
            return redirect("console:swarm", artifact.swarm_id)
