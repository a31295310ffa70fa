"""``ETag`` and ``If-None-Match``: who asks again for what has not changed gets a 304 without a body."""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings
from django.http import HttpResponseBase
from django.utils.cache import get_conditional_response, patch_vary_headers
from rest_framework.request import Request

from apps.api.views.base import Door


class Conditional(Door):
    """A view whose GET answers carry a weak ETag. A browser may keep them, and asks each time whether they still hold.

    Without more, the tag is that of the answer's bytes: a 304 saves the way, not the work. A view that knows sooner
    whether something changed calls ``unchanged``.
    """

    has_tag = True

    def unchanged(self, *facts: object) -> HttpResponseBase | None:
        """The 304 for a caller who has the answer that these facts make already; None when it is to be made."""
        self._tag = _tag(repr((settings.SPECTACULAR_SETTINGS["VERSION"], self.request.build_absolute_uri(), facts)))
        return get_conditional_response(self.request._request, etag=self._tag)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if request.method not in ("GET", "HEAD") or response.status_code not in (200, 304):
            return response
        response["Cache-Control"] = "private, no-cache"
        patch_vary_headers(response, ["Authorization", "Cookie"])
        if tag := getattr(self, "_tag", None):
            response["ETag"] = tag
        elif response.status_code == 200:
            response.add_post_render_callback(self._by_content)
        return response

    def _by_content(self, response: Any) -> HttpResponseBase | None:
        response["ETag"] = tag = _tag(response.content)
        return get_conditional_response(self.request._request, etag=tag, response=response)


def _tag(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return f'W/"{hashlib.sha256(raw).hexdigest()[:32]}"'
