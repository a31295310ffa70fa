"""What every answer tells the browser not to do: Content-Security-Policy by kind of page, and the other headers.

``docs/explanation/security.md`` says what each policy is for. A view that needs more says so with a decorator of
django-csp (``csp.decorators.csp_update``).
"""

from __future__ import annotations

from typing import Any

from csp.constants import HEADER, NONCE, NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.middleware import CheckableLazyObject, CSPMiddleware, PolicyParts
from csp.utils import build_policy
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

STRICT: dict[str, Any] = {
    "default-src": (NONE,),
    "script-src": (SELF,),
    "style-src": (SELF, NONCE),
    "style-src-attr": (UNSAFE_INLINE,),  # places and widths that are computed: a node of the graph, a bar
    "img-src": (SELF, "data:"),
    "font-src": (SELF,),
    "connect-src": (SELF,),  # the console's socket too: it is of the same host
    "form-action": (SELF,),
    "base-uri": (NONE,),
    "frame-ancestors": (NONE,),
}
"""The console, error pages, files, and answers of the API: scripts from files of ours, and from nowhere else."""

ADMIN: dict[str, Any] = {
    **STRICT,
    # Alpine, which Unfold is made of, makes functions of the attributes in its templates.
    "script-src": (SELF, UNSAFE_EVAL),
    "style-src": (SELF, UNSAFE_INLINE),  # style elements of Unfold and of select2
}
DOCS: dict[str, Any] = {
    **STRICT,
    "style-src": (SELF, UNSAFE_INLINE),  # the page of drf-spectacular has a style element
}
FILE: dict[str, Any] = {"default-src": (NONE,), "frame-ancestors": (NONE,), "sandbox": True}
"""What is to be saved and not shown: were it shown all the same, it could do nothing."""

HEADERS = {
    "X-Frame-Options": "DENY",  # Django's middleware does not reach files, and answers from before it
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in (
            "accelerometer",
            "browsing-topics",
            "camera",
            "display-capture",
            "geolocation",
            "gyroscope",
            "magnetometer",
            "microphone",
            "midi",
            "payment",
            "screen-wake-lock",
            "serial",
            "usb",
        )
    ),
    "X-Permitted-Cross-Domain-Policies": "none",
    # Answers are of a person. A view that knows better says so itself.
    "Cache-Control": "private, no-cache",
}
"""Beside those that Django's SecurityMiddleware sets."""


class SecurityHeaders(CSPMiddleware):
    """Sets what is not set already. The first middleware, so that no answer passes it by."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if settings.DEBUG or any(name.startswith("_csp_") for name in vars(response)):  # a view has said something
            answer: HttpResponseBase = super().process_response(request, response)
            return answer
        # What the line above comes to for all other answers, without two deep copies of the policy for each.
        nonce = getattr(request, "_csp_nonce", None)
        if HEADER not in response.headers:
            response.headers[HEADER] = build_policy(policy_of(request, response), nonce=nonce)
        if nonce is None:
            request.csp_nonce = CheckableLazyObject(self._csp_nonce_post_response)  # type: ignore[attr-defined]
        return response

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if parts.config is None and not report_only:
            parts.config = policy_of(request, response)
        return parts


def policy_of(request: HttpRequest, response: HttpResponseBase) -> dict[str, Any]:
    """The directives for an answer."""
    if response.headers.get("Content-Disposition", "").startswith("attachment"):
        return FILE
    match = request.resolver_match
    if match is not None and match.app_name == "admin":
        return ADMIN
    if match is not None and match.view_name == "api:docs":
        return DOCS
    return STRICT
