"""API tokens: making, listing and revoking them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.filters import TokenFilter
from apps.api.idempotency import idempotent
from apps.api.pagination import Pages
from apps.api.schema import IDEMPOTENCY_KEY, KEY_REUSED, NOT_FOUND
from apps.api.serializers.tokens import (
    CREATED_EXAMPLE,
    NEW_TOKEN_EXAMPLE,
    TOKEN_EXAMPLE,
    CreatedTokenSerializer,
    NewTokenSerializer,
    TokenSerializer,
)
from apps.api.views.base import Door
from apps.tenants.actions import create_token, revoke_token
from apps.tenants.models import ApiToken, User
from apps.tenants.tokens import tokens_seen, verify_may_make


class TokenDoor(Door):
    """A view of tokens, those that the caller may see."""

    @property
    def user(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def visible(self) -> QuerySet[ApiToken]:
        return tokens_seen(self.principal, self.user)

    def verify_replay(self, body: Any) -> None:
        self.find(self.visible(), uid=body["id"])


@extend_schema(tags=["tokens"])
class Tokens(TokenDoor, ListAPIView):
    serializer_class = TokenSerializer
    pagination_class = Pages
    filterset_class = TokenFilter
    ordering = ("-created", "-uid")

    def get_queryset(self) -> QuerySet[ApiToken]:
        return ApiToken.objects.none() if getattr(self, "swagger_fake_view", False) else self.visible()

    @extend_schema(summary="List API tokens", operation_id="tokens_list", examples=[TOKEN_EXAMPLE])
    def get(self, request: Request) -> Response:
        """Your own, and those of tenants whose people you manage (user:manage); the latest first.

        Asked with a token that may not manage people: that token alone.
        """
        return self.list(request)

    @extend_schema(
        summary="Make an API token",
        operation_id="tokens_create",
        request=NewTokenSerializer,
        responses={201: CreatedTokenSerializer, **NOT_FOUND, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[NEW_TOKEN_EXAMPLE, CREATED_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Its text is in this answer and nowhere else. For somebody else, or asked with a token: needs user:manage."""
        body = NewTokenSerializer(data=request.data, context={"principal": self.principal})
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        name = wanted.get("user", self.user.username)
        if name != self.user.username:  # who may not make tokens for others learns nothing of who there is
            verify_may_make(self.principal, self.user, of=User(), tenant=wanted["tenant"])
        of = self.user if name == self.user.username else User.objects.filter(username=name).first()
        if of is None:
            raise ValidationError({"user": [f"There is no user {name!r}."]}, "unknown")
        verify_may_make(self.principal, self.user, of=of, tenant=wanted["tenant"])
        token, text = create_token(
            of,
            wanted["tenant"],
            role=wanted["role"],
            permissions=wanted["permissions"],
            name=wanted["name"],
            life=dt.timedelta(days=wanted["expires_in_days"]),
            by=self.principal,
        )
        token.user, token.tenant = of, wanted["tenant"]
        document = {**TokenSerializer(token).data, "token": text}
        return Response(document, 201, headers={"Location": self.location_of(document)})

    def to_keep(self, body: Any) -> Any:
        """An answer that is kept for its key is kept without the token's text."""
        return {**body, "token": None}

    def location_of(self, document: Any) -> str:
        return reverse("api:token", args=[document["id"]])


@extend_schema(tags=["tokens"])
class TokenDetail(TokenDoor):
    @extend_schema(
        summary="One API token", operation_id="tokens_retrieve", responses=TokenSerializer, examples=[TOKEN_EXAMPLE]
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """What a token may do, and when it was last used."""
        return Response(TokenSerializer(self.find(self.visible(), uid=id)).data)

    @extend_schema(summary="Revoke an API token", operation_id="tokens_revoke", responses={204: None})
    def delete(self, request: Request, id: uuid.UUID) -> Response:
        """Ends it at once: the next request that carries it is refused."""
        revoke_token(self.find(self.visible(), uid=id), by=self.principal)
        return Response(status=204)
