"""What the OpenAPI schema says beyond what the views show by themselves."""

from __future__ import annotations

from typing import Any, Literal

from drf_spectacular import openapi as spectacular
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import build_bearer_security_scheme_object
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers


class TokenScheme(OpenApiAuthenticationExtension):
    """``Authorization: Bearer TOKEN`` in the schema."""

    target_class = "apps.tenants.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        definition: dict[str, Any] = build_bearer_security_scheme_object("Authorization", "Bearer")
        return {
            **definition,
            "description": "An API token, made in the console, with POST /tokens/ or with `create_api_token`.",
        }


class ProblemSerializer(serializers.Serializer):
    """One thing that is wrong."""

    code = serializers.CharField(help_text="For programs.")
    detail = serializers.CharField(help_text="For a person: what is wrong and what to do.")
    attr = serializers.CharField(
        allow_null=True, help_text="Key of the body or the query that is to blame; of a spec, the path in it."
    )


class ErrorsSerializer(serializers.Serializer):
    """Why a request was refused: everything that is wrong, at once."""

    type = serializers.ChoiceField(["validation_error", "client_error", "server_error"])
    errors = ProblemSerializer(many=True)  # type: ignore[assignment]


def _problem(status: int, description: str, code: str, detail: str, attr: str | None = None) -> dict[int, Any]:
    kind = "validation_error" if attr else "client_error"
    body = {"type": kind, "errors": [{"code": code, "detail": detail, "attr": attr}]}
    example = OpenApiExample(code, body, response_only=True, status_codes=[str(status)])
    return {status: OpenApiResponse(ErrorsSerializer, description, examples=[example])}


INVALID = _problem(
    400,
    "The body or the query is wrong; every error is listed.",
    "unknown_key",
    "This key is not known here.",
    "colour",
)
UNKNOWN_CALLER = _problem(
    401, "No token or session, or one that no longer counts.", "authentication_failed", "This token has expired."
)
FORBIDDEN = _problem(
    403, "You may see it, but not do this.", "permission_denied", "This needs the permission swarm:terminate."
)
NOT_FOUND = _problem(404, "There is no such thing, or you may not see it.", "not_found", "There is no such swarm.")
CONFLICT = _problem(
    409, "Refused in the present state; the detail says why.", "conflict", "It is over already: succeeded."
)
UNREADABLE = _problem(
    409,
    "The bytes of the file are gone, changed, or their storage does not answer; the detail says which.",
    "unreadable",
    "The file out/brief.md cannot be read: its object is not in storage any more.",
)
KEY_REUSED = _problem(
    422,
    "The Idempotency-Key was used for a different body.",
    "idempotency_key_reused",
    "This Idempotency-Key was used for a different request. Use a new key for a new request.",
)
TOO_MANY = _problem(
    429,
    "More requests than the limit of this minute; `Retry-After` says when the next one counts.",
    "throttled",
    "Request was throttled. Expected available in 17 seconds.",
)
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="Any text of yours, such as a UUID. Sent again with the same body within 24 hours, the request is "
    "answered as before (with the header `Idempotency-Replayed: true`) and creates nothing.",
)


IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of an answer that you have: 304, without a body, while it still holds.",
)


class AutoSchema(spectacular.AutoSchema):
    """Adds to every operation the errors that it can answer with, all in the one shape they have."""

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        if direction != "response":
            return bodies
        possible = {**UNKNOWN_CALLER, **TOO_MANY}
        if self.method != "GET" or self._is_list_view() or self._get_filter_parameters():
            possible |= INVALID
        if self.method != "GET":
            possible |= FORBIDDEN
        if "{" in self.path:
            possible |= NOT_FOUND
        if self._has_tag:
            bodies["304"] = {"description": "What you have, by its `ETag` in `If-None-Match`, still holds."}
        errors = {str(code): self._get_response_for_code(body, str(code)) for code, body in possible.items()}
        return dict(sorted({**errors, **bodies}.items()))

    @property
    def _has_tag(self) -> bool:
        return self.method == "GET" and getattr(self.view, "has_tag", False)

    def get_override_parameters(self) -> Any:
        given = list(super().get_override_parameters())
        return [*given, IF_NONE_MATCH] if self._has_tag else given
