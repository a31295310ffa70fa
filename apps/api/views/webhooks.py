"""Webhooks: making, changing, testing and ending them; what was delivered to them, and sending it again."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.conditional import Conditional
from apps.api.filters import DeliveryFilter, WebhookFilter
from apps.api.idempotency import idempotent
from apps.api.pagination import Pages
from apps.api.schema import CONFLICT, IDEMPOTENCY_KEY, KEY_REUSED, NOT_FOUND
from apps.api.serializers.base import NoBody
from apps.api.serializers.webhooks import (
    DELIVERY_DETAIL_EXAMPLE,
    DELIVERY_EXAMPLE,
    NEW_WEBHOOK_EXAMPLE,
    SECRET_EXAMPLE,
    WEBHOOK_EXAMPLE,
    DeliveryDetailSerializer,
    DeliverySerializer,
    NewWebhookSerializer,
    SecretWebhookSerializer,
    WebhookChangesSerializer,
    WebhookSerializer,
)
from apps.api.views.base import Door
from apps.tenants.roles import Permission
from apps.webhooks import actions
from apps.webhooks.models import Delivery, Webhook


class WebhookDoor(Door):
    """A view of webhooks, those of tenants whose webhooks the caller manages."""

    attrs: ClassVar[dict[str, str]] = {"kinds": "events"}

    def visible(self) -> QuerySet[Any]:
        rows = Webhook.objects.select_related("tenant")
        limited: QuerySet[Webhook] = self.principal.limit(rows, Permission.WEBHOOK_MANAGE)
        return limited

    def webhook(self, id: uuid.UUID) -> Webhook:
        found: Webhook = self.find(self.visible(), pk=id)
        return found

    def deliveries(self) -> QuerySet[Delivery]:
        limited: QuerySet[Delivery] = self.principal.limit(Delivery.objects.all(), Permission.WEBHOOK_MANAGE)
        return limited


@extend_schema(tags=["webhooks"])
class Webhooks(WebhookDoor, Conditional, ListAPIView):
    serializer_class = WebhookSerializer
    pagination_class = Pages
    filterset_class = WebhookFilter
    ordering = ("id",)

    def get_queryset(self) -> QuerySet[Webhook]:
        return Webhook.objects.none() if getattr(self, "swagger_fake_view", False) else self.visible()

    @extend_schema(summary="List webhooks", operation_id="webhooks_list", examples=[WEBHOOK_EXAMPLE])
    def get(self, request: Request) -> Response:
        """Those of tenants in which you have webhook:manage, oldest first."""
        return self.list(request)

    @extend_schema(
        summary="Make a webhook",
        operation_id="webhooks_create",
        request=NewWebhookSerializer,
        responses={201: SecretWebhookSerializer, **NOT_FOUND, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[NEW_WEBHOOK_EXAMPLE, SECRET_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """It is told of what happens from now on. Its secret is in this answer and nowhere else.

        Needs webhook:manage.
        """
        body = NewWebhookSerializer(data=request.data, context={"principal": self.principal})
        body.is_valid(raise_exception=True)
        hook, secret = actions.create_webhook(by=self.principal, **body.validated_data)
        document = {**WebhookSerializer(hook).data, "secret": secret}
        return Response(document, 201, headers={"Location": self.location_of(document)})

    def to_keep(self, body: Any) -> Any:
        """An answer that is kept for its key is kept without the secret."""
        return {**body, "secret": None}

    def location_of(self, document: Any) -> str:
        return reverse("api:webhook", args=[document["id"]])


@extend_schema(tags=["webhooks"])
class WebhookDetail(WebhookDoor, Conditional):
    @extend_schema(
        summary="One webhook",
        operation_id="webhooks_retrieve",
        responses=WebhookSerializer,
        examples=[WEBHOOK_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """A webhook, and whether what is sent to it arrives."""
        return Response(WebhookSerializer(self.webhook(id)).data)

    @extend_schema(
        summary="Change a webhook",
        operation_id="webhooks_change",
        request=WebhookChangesSerializer,
        responses={200: WebhookSerializer},
        examples=[WEBHOOK_EXAMPLE],
    )
    def patch(self, request: Request, id: uuid.UUID) -> Response:
        """Changes what is given. Enabling one that was disabled sends what waited. Needs webhook:manage."""
        hook = self.webhook(id)
        body = WebhookChangesSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = dict(body.validated_data)
        reason, enabled = wanted.pop("reason"), wanted.pop("enabled", None)
        with transaction.atomic():
            hook = actions.change_webhook(hook, by=self.principal, **wanted)
            if enabled is True and not hook.is_enabled:
                hook = actions.enable_webhook(hook, by=self.principal)
            elif enabled is False and hook.is_enabled:
                hook = actions.disable_webhook(hook, by=self.principal, reason=reason)
        return Response(WebhookSerializer(hook).data)

    @extend_schema(summary="End a webhook", operation_id="webhooks_end", responses={204: None})
    def delete(self, request: Request, id: uuid.UUID) -> Response:
        """Removes it with its deliveries; what waits is not sent. Needs webhook:manage."""
        actions.delete_webhook(self.webhook(id), by=self.principal)
        return Response(status=204)


@extend_schema(tags=["webhooks"])
class WebhookRotate(WebhookDoor):
    @extend_schema(
        summary="Give a webhook a new secret",
        operation_id="webhooks_rotate",
        request=NoBody,
        responses={200: SecretWebhookSerializer, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[SECRET_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """For a day, messages carry the signatures of both secrets, so that receivers can change over.

        The new one is in this answer and nowhere else. Needs webhook:manage.
        """
        NoBody(data=request.data).is_valid(raise_exception=True)
        hook, secret = actions.rotate_secret(self.webhook(id), by=self.principal)
        return Response({**WebhookSerializer(hook).data, "secret": secret})

    def to_keep(self, body: Any) -> Any:
        return {**body, "secret": None}


@extend_schema(tags=["webhooks"])
class WebhookTest(WebhookDoor):
    @extend_schema(
        summary="Send a ping",
        operation_id="webhooks_test",
        request=NoBody,
        responses={201: DeliverySerializer, **CONFLICT, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[DELIVERY_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """A message of type `webhook.ping`, tried once; look at the delivery for what came of it.

        Needs webhook:manage.
        """
        NoBody(data=request.data).is_valid(raise_exception=True)
        document = DeliverySerializer(actions.ping(self.webhook(id), by=self.principal)).data
        return Response(document, 201, headers={"Location": self.location_of(document)})

    def verify_replay(self, body: Any) -> None:
        self.find(self.deliveries(), pk=body["id"])

    def location_of(self, document: Any) -> str:
        return reverse("api:delivery", args=[document["id"]])


@extend_schema(tags=["webhooks"])
class WebhookDeliveries(WebhookDoor, ListAPIView):
    serializer_class = DeliverySerializer
    pagination_class = Pages
    filterset_class = DeliveryFilter
    ordering = ("-id",)

    def get_queryset(self) -> QuerySet[Delivery]:
        if getattr(self, "swagger_fake_view", False):
            return Delivery.objects.none()
        return self.deliveries().filter(webhook=self.webhook(self.kwargs["id"]))

    @extend_schema(
        summary="List the deliveries of a webhook",
        operation_id="webhooks_deliveries",
        examples=[DELIVERY_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """The latest first, for as long as they are kept (30 days, unless the operator chose otherwise)."""
        return self.list(request)


@extend_schema(tags=["webhooks"])
class DeliveryDetail(WebhookDoor, Conditional):
    @extend_schema(
        summary="One delivery",
        operation_id="deliveries_retrieve",
        responses=DeliveryDetailSerializer,
        examples=[DELIVERY_DETAIL_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """What is sent, and what came of each attempt."""
        return Response(DeliveryDetailSerializer(self.find(self.deliveries(), pk=id)).data)


@extend_schema(tags=["webhooks"])
class DeliveryRepeat(WebhookDoor):
    @extend_schema(
        summary="Send a delivery again",
        operation_id="deliveries_repeat",
        request=NoBody,
        responses={200: DeliverySerializer, **CONFLICT},
        examples=[DELIVERY_EXAMPLE],
    )
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """One that is over, whether it arrived or was given up, with the same `webhook-id` and body.

        Needs webhook:manage.
        """
        NoBody(data=request.data).is_valid(raise_exception=True)
        delivery = self.find(self.deliveries().select_related("webhook"), pk=id)
        return Response(DeliverySerializer(actions.repeat_delivery(delivery, by=self.principal)).data)
