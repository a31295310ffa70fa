"""Budgets: making, reading, changing and ending them."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.conditional import Conditional
from apps.api.filters import BudgetFilter
from apps.api.idempotency import idempotent
from apps.api.pagination import Pages
from apps.api.schema import CONFLICT, IDEMPOTENCY_KEY, KEY_REUSED, NOT_FOUND
from apps.api.serializers.budgets import (
    BUDGET_EXAMPLE,
    NEW_BUDGET_EXAMPLE,
    BudgetChangesSerializer,
    BudgetSerializer,
    NewBudgetSerializer,
    with_standing,
)
from apps.api.views.base import Door
from apps.costs.actions import change_budget, create_budget, deactivate_budget
from apps.costs.models import Budget, Scope
from apps.privacy.models import DataSubject
from apps.tenants.models import Tenant


class BudgetDoor(Door):
    """A view of budgets, those that the caller may see."""

    attrs: ClassVar[dict[str, str]] = {"limit": "limit_usd"}

    def visible(self) -> QuerySet[Budget]:
        return Budget.objects.visible_to(self.principal).select_related("tenant")

    def document(self, budget: Budget) -> Any:
        (standing,) = with_standing([budget], now=timezone.now())
        return BudgetSerializer(standing).data


@extend_schema(tags=["budgets"])
class Budgets(BudgetDoor, Conditional, ListAPIView):
    serializer_class = BudgetSerializer
    pagination_class = Pages
    filterset_class = BudgetFilter
    ordering = ("id",)

    def get_queryset(self) -> QuerySet[Budget]:
        if getattr(self, "swagger_fake_view", False):
            return Budget.objects.none()
        return self.visible().filter(pk__in=Budget.objects.lasting().values("pk"))

    @extend_schema(summary="List budgets", operation_id="budgets_list", examples=[BUDGET_EXAMPLE])
    def get(self, request: Request) -> Response:
        """The budgets that you may see, oldest first, with how they stand now.

        Without those that specs set for their own run: these are in the document of their swarm.
        """
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        return self.get_paginated_response(BudgetSerializer(with_standing(page, now=timezone.now()), many=True).data)

    @extend_schema(
        summary="Make a budget",
        operation_id="budgets_create",
        request=NewBudgetSerializer,
        responses={201: BudgetSerializer, **NOT_FOUND, **CONFLICT, **KEY_REUSED},
        parameters=[IDEMPOTENCY_KEY],
        examples=[NEW_BUDGET_EXAMPLE, BUDGET_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """It counts what is spent from now on, not what was spent before. Needs budget:update."""
        body = NewBudgetSerializer(data=request.data, context={"principal": self.principal})
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        with transaction.atomic():
            if wanted["scope"] == Scope.END_USER and wanted["target"]:
                wanted["target"] = _subject(wanted["tenant"], wanted["target"])
            budget = create_budget(by=self.principal, **wanted)
        document = self.document(budget)
        return Response(document, 201, headers={"Location": self.location_of(document)})

    def location_of(self, document: Any) -> str:
        return reverse("api:budget", args=[document["id"]])


@extend_schema(tags=["budgets"])
class BudgetDetail(BudgetDoor, Conditional):
    @extend_schema(
        summary="One budget", operation_id="budgets_retrieve", responses=BudgetSerializer, examples=[BUDGET_EXAMPLE]
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """A budget, how it stands in its current period, and what it will have spent at the end of it."""
        return Response(self.document(self.find(self.visible(), pk=id)))

    @extend_schema(
        summary="Change a budget",
        operation_id="budgets_change",
        request=BudgetChangesSerializer,
        responses=BudgetSerializer,
        examples=[BUDGET_EXAMPLE],
    )
    def patch(self, request: Request, id: uuid.UUID) -> Response:
        """Changes what is given, in the current period too. Needs budget:update.

        A limit below what is already spent or reserved refuses every further call; what is spent stands.
        """
        budget = self.find(self.visible(), pk=id)
        body = BudgetChangesSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        change_budget(budget, by=self.principal, **body.validated_data)
        return Response(self.document(self.visible().get(pk=id)))

    @extend_schema(summary="End a budget", operation_id="budgets_end", responses={204: None})
    def delete(self, request: Request, id: uuid.UUID) -> Response:
        """It watches no further calls, and stays readable with `is_active` false. Needs budget:update."""
        deactivate_budget(self.find(self.visible(), pk=id), by=self.principal)
        return Response(status=204)


def _subject(tenant: Tenant, target: str) -> str:
    """The pseudonym of the person that a tenant's own reference, or already a pseudonym, stands for."""
    try:
        return str(uuid.UUID(target))
    except ValueError:
        return str(DataSubject.objects.pseudonym(tenant.pk, target))
