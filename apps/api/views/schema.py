"""The schema, made once in each process: it is the same for everybody, and takes a second to make."""

from __future__ import annotations

import functools
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

from apps.api.views.base import Limited


class Schema(Limited, SpectacularAPIView):
    def _get_schema_response(self, request: Request) -> Any:
        media_type: str = request.accepted_renderer.media_type
        return HttpResponse(
            _rendered(media_type),
            content_type=media_type,
            headers={"Content-Disposition": f'inline; filename="{self._get_filename(request, None)}"'},
        )


@functools.cache
def _rendered(media_type: str) -> bytes:
    (renderer,) = [each for each in SpectacularAPIView.renderer_classes if each.media_type == media_type]
    document: Any = renderer().render(SchemaGenerator().get_schema(request=None, public=True), media_type, {})
    return document if isinstance(document, bytes) else str(document).encode()
