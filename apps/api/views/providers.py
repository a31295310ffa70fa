"""Model providers and how their regions do."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.pagination import Pages
from apps.api.schema import FORBIDDEN
from apps.api.serializers.providers import PROVIDER_EXAMPLE, ProviderSerializer, told
from apps.api.views.base import Door
from apps.providers.models import Provider, Region
from apps.providers.standing import last_hour
from apps.tenants.roles import Permission


class ProviderDoor(Door):
    """A view of providers. They belong to the platform: who may see a swarm anywhere may see what it depends on."""

    def visible(self) -> QuerySet[Provider]:
        self.principal.verify_anywhere(Permission.SWARM_READ)
        regions = Region.objects.select_related("breaker", "window").order_by("order", "name")
        return Provider.objects.prefetch_related(Prefetch("regions", regions))

    def told(self, providers: list[Provider]) -> Any:
        ids = [region.pk for provider in providers for region in provider.regions.all()]
        traffic = last_hour(ids, now=timezone.now())
        return ProviderSerializer([told(provider, traffic) for provider in providers], many=True).data


@extend_schema(tags=["providers"])
class Providers(ProviderDoor, GenericAPIView):
    serializer_class = ProviderSerializer
    pagination_class = Pages
    filter_backends = ()
    ordering = ("name",)

    @extend_schema(
        summary="List providers",
        operation_id="providers_list",
        responses={200: ProviderSerializer(many=True), **FORBIDDEN},
        examples=[PROVIDER_EXAMPLE],
    )
    def get(self, request: Request) -> Response:
        """Who serves models, in the order of their names, with the state of each region (swarm:read in any tenant)."""
        page: Any = self.paginate_queryset(self.visible()) or []
        return self.get_paginated_response(self.told(page))


class ProviderDetail(ProviderDoor):
    @extend_schema(
        summary="One provider",
        operation_id="providers_retrieve",
        tags=["providers"],
        responses={200: ProviderSerializer, **FORBIDDEN},
        examples=[PROVIDER_EXAMPLE],
    )
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """How a provider stands, and each of its regions."""
        return Response(self.told([self.find(self.visible(), pk=id)])[0])
