"""Who is asking, and how full the pool is."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.conditional import Conditional
from apps.api.schema import FORBIDDEN
from apps.api.serializers.platform import MeSerializer, PoolSerializer
from apps.api.views.base import Door
from apps.swarms.models import ResourcePool
from apps.tenants.models import ApiToken
from apps.tenants.roles import Permission


class Me(Door):
    @extend_schema(summary="Who you are and what you may do", responses=MeSerializer, tags=["me"], operation_id="me")
    def get(self, request: Request) -> Response:
        """User, tenants and permissions of this request: of the session, or of the token, which may narrow them."""
        by = self.principal
        everything = sorted(str(name) for name in Permission)
        tenants = [
            {
                "id": tenant.pk,
                "slug": tenant.slug,
                "name": tenant.name,
                "time_zone": tenant.time_zone,
                "permissions": sorted(map(str, by.held_in(tenant.pk))),
            }
            for tenant in by.tenants(None)
        ]
        held = everything if by.everything else sorted({name for each in by.permissions for name in by.held_in(each)})
        token = request.auth if isinstance(request.auth, ApiToken) else None
        me = {"user": request.user, "token": token, "tenants": tenants, "permissions": held}
        return Response(MeSerializer(me).data)


class Pool(Conditional):
    @extend_schema(
        summary="How full the resource pool is",
        responses={200: PoolSerializer, **FORBIDDEN},
        tags=["pool"],
        operation_id="pool",
        examples=[
            OpenApiExample(
                "Half full",
                {
                    "agents": {"used": 250, "total": 500, "percent": 50.0},
                    "memory_gb": {"used": 500.0, "total": 1024.0, "percent": 48.8},
                    "cpu": {"used": 125.0, "total": 256.0, "percent": 48.8},
                    "swarms": {"used": 12, "total": 50, "percent": 24.0},
                },
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
    def get(self, request: Request) -> Response:
        """Agents, memory, CPU and swarms: used, total and percent. Over all tenants; needs pool:read in one of them."""
        self.principal.verify_anywhere(Permission.POOL_READ)
        return Response(PoolSerializer(ResourcePool.objects.current().utilisation()).data)
