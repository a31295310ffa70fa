"""The audit trail, for those who watch."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.pagination import CURSOR, SIZE, Pages
from apps.api.schema import FORBIDDEN, INVALID
from apps.api.serializers.audit import AUDIT_EXAMPLE, AuditEntrySerializer, AuditQuerySerializer
from apps.api.serializers.costs import slugs_of
from apps.api.views.base import Door
from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission


@extend_schema(tags=["audit"])
class AuditTrail(Door, GenericAPIView):
    serializer_class = AuditEntrySerializer
    pagination_class = Pages
    filter_backends = ()
    ordering = ("-at", "-id")

    @extend_schema(
        summary="List audit entries",
        operation_id="audit_list",
        parameters=[AuditQuerySerializer],
        responses={200: AuditEntrySerializer(many=True), **INVALID, **FORBIDDEN},
        examples=[AUDIT_EXAMPLE],
    )
    def get(self, request: Request) -> Response:
        """Who did what, the latest first, in the tenants whose trail you may read (audit:read).

        Each page that is read is itself an entry, with what was asked for.
        """
        self.principal.verify_anywhere(Permission.AUDIT_READ)
        given = request.query_params.dict()
        for name in (CURSOR, SIZE):
            given.pop(name, None)
        query = AuditQuerySerializer(data=given)
        query.is_valid(raise_exception=True)
        allowed = self.principal.tenant_ids(Permission.AUDIT_READ)
        if "tenant" in query.validated_data:
            seen = self.principal.tenants(Permission.AUDIT_READ).filter(slug=query.validated_data["tenant"])
            allowed = set(seen.values_list("pk", flat=True))
        entries = query.narrow(AuditEntry.objects.all())
        if allowed is not None:
            entries = entries.filter(tenant_id__in=allowed)
        with transaction.atomic():
            page: Any = self.paginate_queryset(entries) or []
            for tenant_id in [None] if allowed is None else sorted(allowed):
                read = AuditEntry() if tenant_id is None else Tenant(pk=tenant_id)
                details = {"query": given, "entries": len(page)}
                trail.record(self.principal, Permission.AUDIT_READ, read, tenant_id=tenant_id, details=details)
        context = {"slugs": slugs_of({entry.tenant_id for entry in page})}
        return self.get_paginated_response(AuditEntrySerializer(page, many=True, context=context).data)
