"""Who is asking, and how full the pool is."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.conditional import Conditional
from apps.api.schema import FORBIDDEN
from apps.api.serializers.platform import MeSerializer, PoolSerializer
from apps.api.views.base import Door
from apps.swarms.models import ResourcePool, Swarm
from apps.tenants.access import Principal
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
        me = {"user": request.user, "token": token, "tenants": tenants, "permissions": held, "grants": _grants(by)}
        return Response(MeSerializer(me).data)


def _grants(by: Principal) -> list[dict[str, Any]]:
    """What is granted on single swarms, and their names; without what policies deny now. One query, if any."""
    held = {
        swarm_id: [each for each in grant.permissions if by.can(each, grant.tenant_id, swarm_id=swarm_id)]
        for swarm_id, grant in by.grants.items()
    }
    readable = [swarm_id for swarm_id, permissions in held.items() if Permission.SWARM_READ in permissions]
    names = dict(Swarm.objects.filter(pk__in=readable).values_list("pk", "name")) if readable else {}
    rows = [
        {
            "swarm": swarm_id,
            "name": names.get(swarm_id),
            "tenant": by.circumstances.tenants[grant.tenant_id].slug,
            "permissions": sorted(map(str, held[swarm_id])),
        }
        for swarm_id, grant in by.grants.items()
    ]
    return sorted(rows, key=lambda row: (row["tenant"], row["name"] or "", row["swarm"]))


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
