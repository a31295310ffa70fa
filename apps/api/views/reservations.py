"""Money that agents elsewhere reserve before a call, and settle or release after it."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.idempotency import idempotent
from apps.api.schema import CONFLICT, IDEMPOTENCY_KEY, KEY_REUSED
from apps.api.serializers.base import AMOUNT_ERRORS, NoBody
from apps.api.serializers.external import (
    HELD_EXAMPLE,
    NEW_RESERVATION_EXAMPLES,
    REFUSED_EXAMPLE,
    SETTLED_EXAMPLE,
    ExtensionSerializer,
    ExternalReservationSerializer,
    NewReservationSerializer,
    RefusalSerializer,
    RefusedBySerializer,
    SettlementSerializer,
)
from apps.api.views.base import Door
from apps.costs import external_reservations as calls
from apps.costs.external_reservations import MOST_NANO, Billed, Standing, Wanted, standings
from apps.costs.models import ExternalReservation, run_id
from apps.costs.prices import price_of
from apps.costs.reserving import Refused
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.money import usd_text

BUSY_WAIT_S = 2
"""After how long it is worth asking again where calls in flight hold the money."""


class ReservationDoor(Door):
    """A view of reservations made from outside, those of tenants whose costs the caller may read or record."""

    limit_policy = "ingest"

    def visible(self) -> QuerySet[ExternalReservation]:
        rows = ExternalReservation.objects
        return rows.visible_to(self.principal) | rows.visible_to(self.principal, Permission.COST_RECORD)

    def document(self, held: ExternalReservation, standing: Standing, tenant: Tenant | None = None) -> Any:
        tenant = tenant or Tenant.objects.only("slug").get(pk=held.tenant_id)
        return ExternalReservationSerializer(
            {
                "id": held.pk,
                "tenant": tenant.slug,
                "status": standing.state.value,
                "amount": held.amount,
                "charged": standing.charged,
                "agent": held.agent,
                "model": held.model,
                "run": held.run,
                "run_id": run_id(held.tenant_id, held.run),
                "created_at": held.created_at,
                "expires_at": standing.expires_at,
            }
        ).data

    def location_of(self, body: Any) -> str:
        return reverse("api:reservation", args=[body["id"]])


@extend_schema(tags=["costs"])
class Reservations(ReservationDoor):
    @extend_schema(
        summary="Reserve money for a call",
        operation_id="reservations_create",
        request=NewReservationSerializer,
        responses={201: ExternalReservationSerializer, 409: RefusalSerializer, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[*NEW_RESERVATION_EXAMPLES, HELD_EXAMPLE, REFUSED_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Holds the most that a call can cost, in every budget that watches it. Needs cost:record.

        409 says which budget refuses and what it has left: `budget_exhausted`, or `budget_busy` when the call would fit
        were other calls not in flight (ask again after `Retry-After` seconds). Make the call only after a 201. What is
        not settled, released or extended by the end of its lease is charged as reserved.
        """
        now = timezone.now()
        body = NewReservationSerializer(data=request.data, context={"principal": self.principal})
        body.is_valid(raise_exception=True)
        given = body.validated_data
        tenant: Tenant = given["tenant"]
        self.principal.verify(Permission.COST_RECORD, tenant.pk)
        amount = given["amount"] if "amount" in given else _highest(given, tenant.pk, now)
        wanted = Wanted(
            tenant_id=tenant.pk,
            amount=amount,
            lease=dt.timedelta(seconds=given["lease_s"]),
            agent=given["agent"],
            model=given["model"],
            run=given["run"],
            end_user=given["end_user"],
        )
        answer = calls.reserve(wanted, by=self.principal, now=now)
        if isinstance(answer, Refused):
            return _refusal(answer)
        document = self.document(*answer, tenant)
        return Response(document, 201, headers={"Location": self.location_of(document)})


def _highest(given: dict[str, Any], tenant_id: uuid.UUID, now: dt.datetime) -> int:
    size = given.get("input_bytes", given.get("max_input_tokens", 0))
    price = price_of(given["model"], tenant_id=tenant_id, at=now)
    return _countable(price.highest(size, given["max_output_tokens"]), "max_output_tokens")


def _countable(amount: int, attr: str) -> int:
    if amount > MOST_NANO:
        text = f"That is {usd_text(amount)} USD. {AMOUNT_ERRORS['too_large']}"
        raise ValidationError({attr: [text]}, "too_large")
    return amount


def _refusal(refused: Refused) -> Response:
    code = "budget_busy" if refused.may_fit_later else "budget_exhausted"
    body = {
        "type": "client_error",
        "errors": [{"code": code, "detail": refused.reason, "attr": None}],
        "refused_by": RefusedBySerializer(refused).data,
    }
    return Response(body, 409, headers={"Retry-After": str(BUSY_WAIT_S)} if refused.may_fit_later else None)


@extend_schema(tags=["costs"])
class ReservationDetail(ReservationDoor):
    @extend_schema(
        summary="One reservation",
        operation_id="reservations_retrieve",
        responses=ExternalReservationSerializer,
        examples=[HELD_EXAMPLE, SETTLED_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """What became of it. Those of swarms that run here are not among them."""
        held = self.find(self.visible(), pk=id)
        return Response(self.document(held, standings([held.pk])[held.pk]))


@extend_schema(tags=["costs"])
class ReservationExtend(ReservationDoor):
    @extend_schema(
        summary="Extend a reservation",
        operation_id="reservations_extend",
        request=ExtensionSerializer,
        responses={200: ExternalReservationSerializer, **CONFLICT},
        examples=[HELD_EXAMPLE],
    )
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Keeps it for at least `lease_s` seconds from now on. 409 when it is over. Needs cost:record."""
        held = self.find(self.visible(), pk=id)
        body = ExtensionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        lease = dt.timedelta(seconds=body.validated_data["lease_s"])
        return Response(self.document(held, calls.extend(held, lease, by=self.principal, now=timezone.now())))


@extend_schema(tags=["costs"])
class ReservationSettle(ReservationDoor):
    @extend_schema(
        summary="Settle a reservation",
        operation_id="reservations_settle",
        request=SettlementSerializer,
        responses={200: ExternalReservationSerializer, **CONFLICT},
        examples=[SETTLED_EXAMPLE],
    )
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Charges what the call cost, in money or by its tokens, and gives the rest back. Needs cost:record.

        It refuses no cost: what is beyond the reservation is charged too, as overage. After the end of the lease it
        corrects the charge, once. The same again answers the same; 409 when it was released or settled otherwise.
        """
        held = self.find(self.visible(), pk=id)
        self.principal.verify(Permission.COST_RECORD, held.tenant_id)
        body = SettlementSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        billed = Billed(**body.validated_data)
        if billed.amount is None:
            if not held.model:
                raise ValidationError(
                    {"amount_usd": ["The reservation names no model to price tokens by: give amount_usd."]}, "required"
                )
            price = price_of(held.model, tenant_id=held.tenant_id, at=held.created_at)
            _countable(billed.priced(price)[0], "input_tokens")
        return Response(self.document(held, calls.settle(held, billed, by=self.principal, now=timezone.now())))


@extend_schema(tags=["costs"])
class ReservationRelease(ReservationDoor):
    @extend_schema(
        summary="Release a reservation",
        operation_id="reservations_release",
        request=NoBody,
        responses={200: ExternalReservationSerializer, **CONFLICT},
    )
    def post(self, request: Request, id: uuid.UUID) -> Response:
        """Gives all of it back, as the call was not made. 409 when it was charged already. Needs cost:record."""
        held = self.find(self.visible(), pk=id)
        NoBody(data=request.data).is_valid(raise_exception=True)
        return Response(self.document(held, calls.release(held, by=self.principal, now=timezone.now())))
