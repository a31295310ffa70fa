"""The probes over HTTP: for anybody, without a login."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.observability.health import Bounded, liveness, readiness

_alive = Bounded(liveness)
_ready = Bounded(readiness)


@require_safe
@never_cache
def livez(request: HttpRequest) -> JsonResponse:
    """200 while the orchestrator ticks, else 503; each check by name."""
    return _answer(_alive)


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when work can be done, else 503; each check by name."""
    return _answer(_ready)


def _answer(probe: Bounded) -> JsonResponse:
    checks = probe()
    ok = all(check.ok for check in checks)
    body = {"ok": ok, "checks": {check.name: check.as_json() for check in checks}}
    return JsonResponse(body, status=200 if ok else 503)
