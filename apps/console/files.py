"""The files of a swarm or of a task, a page at a time."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest

from apps.execution.models.artifact import ArtifactQuerySet

PAGE_SIZE = 10


def page_of(files: ArtifactQuerySet, request: HttpRequest) -> dict[str, Any]:
    """What ``console/bits/files.html`` shows of these files: the page that ``?files=`` asks for."""
    shown = Paginator(files.named(), PAGE_SIZE).get_page(request.GET.get("files"))
    return {
        "files": shown,
        "file_pages": shown.paginator.get_elided_page_range(shown.number, on_each_side=1, on_ends=1),
    }
