"""Advice on saving money."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.filters import AdviceFilter
from apps.api.pagination import Pages
from apps.api.serializers.advice import AdviceSerializer
from apps.api.views.base import Door
from apps.costs.models import Advice


@extend_schema(tags=["costs"])
class AdviceList(Door, ListAPIView):
    serializer_class = AdviceSerializer
    pagination_class = Pages
    filterset_class = AdviceFilter
    ordering = ("-saving", "-id")

    def get_queryset(self) -> QuerySet[Advice]:
        if getattr(self, "swagger_fake_view", False):
            return Advice.objects.none()
        return Advice.objects.visible_to(self.principal).select_related("tenant")

    @extend_schema(summary="List advice")
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Advice to tenants whose costs you may read, the largest saving first; decided advice too, see ``status``."""
        return self.list(request, *args, **kwargs)
