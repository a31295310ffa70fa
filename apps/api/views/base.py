"""What every view of the API shares: its principal, and the answer to a path that leads nowhere."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404
from django.urls import Resolver404, resolve
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, NotFound, Throttled, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.api.limits import Standing, address_of, take
from apps.tenants.access import AccessDenied, Principal, principal_of_request
from apps.tenants.models import ApiToken

Row = TypeVar("Row", bound=Model)


class Limited(APIView):
    """A view that counts requests: by token, by user of a session, and by address for who is not logged in."""

    limit_policy = ""
    """Another limit than the usual one of tokens and sessions."""
    _standing: Standing | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuses what is one too many, also of logins that fail. Raises Throttled."""
        try:
            super().initial(request, *args, **kwargs)
        except (AuthenticationFailed, NotAuthenticated):
            self._count("address", address_of(request.META.get("REMOTE_ADDR")))
            raise
        if isinstance(request.auth, ApiToken):
            self._count(self.limit_policy or "token", f"token {request.auth.uid}")
        elif request.user.is_authenticated:
            self._count(self.limit_policy or "session", f"user {request.user.pk}")
        else:
            self._count("address", address_of(request.META.get("REMOTE_ADDR")))

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Raises ValidationError for a ``format`` that there is none of."""
        try:
            return super().perform_content_negotiation(request, force)
        except Http404:
            names = " or ".join(renderer.format for renderer in self.renderer_classes)
            raise ValidationError({"format": [f"Answers come as {names}."]}, "invalid") from None

    def _count(self, policy: str, who: str) -> None:
        self._standing = standing = take(policy, who, now=time.time())
        if standing and not standing.allowed:
            raise Throttled(standing.reset_s)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        if self._standing:
            for name, value in self._standing.headers.items():
                response.headers[name] = value
        return super().finalize_response(request, response, *args, **kwargs)


class Door(Limited):
    """A view that knows who asks."""

    @property
    def principal(self) -> Principal:
        return principal_of_request(self.request)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """The answer is for this caller alone: nobody on the way keeps it."""
        if response.status_code == 200 and request.method in ("GET", "HEAD") and (denial := self.principal.shut_out()):
            response = self.handle_exception(AccessDenied(denial))
        response.setdefault("Cache-Control", "no-store")
        return super().finalize_response(request, response, *args, **kwargs)

    def visible(self) -> QuerySet[Any]:
        """The rows that the caller may see, of the kind that the view is about."""
        raise NotImplementedError

    def verify_replay(self, body: Any) -> None:
        """Raises NotFound unless the caller may see what an answer that was kept is about."""
        self.find(self.visible(), pk=body["id"])

    def to_keep(self, body: Any) -> Any:
        """What of an answer is kept for its Idempotency-Key: all of it, unless it holds a secret."""
        return body

    def location_of(self, body: Any) -> str:
        """Where the thing of an answer is found; empty when it is nowhere."""
        return ""

    def find(self, rows: QuerySet[Row], **lookup: Any) -> Row:
        """The one row, of those the caller may see. Raises NotFound, the same for hidden and for missing ones."""
        found = rows.filter(**lookup).first()
        if found is None:
            if denial := self.principal.withheld():
                raise AccessDenied(denial)
            raise NotFound(f"There is no such {rows.model._meta.verbose_name}, or you may not see it.")
        return found


@extend_schema(exclude=True)
class Nowhere(Door):
    """404 in the API's own shape, for every path that no other view has."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        slashed = f"{request.path_info}/"
        try:
            meant = getattr(resolve(slashed).func, "view_class", None) is not type(self)
        except Resolver404:
            meant = False
        hint = f" Paths end with a slash: {slashed}" if meant else ""
        raise NotFound(f"There is nothing at {request.path}.{hint}")

    def get(self, request: Request, path: str) -> Response:
        raise NotFound

    post = put = patch = delete = get
