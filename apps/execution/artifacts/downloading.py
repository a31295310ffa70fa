"""Handing an artifact's bytes out to a person or a program: one answer for all doors, audited before its first byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag

from apps.audit import trail
from apps.execution.errors import ArtifactUnreadable
from apps.tenants.access import Principal
from portal.attachments import disposition, served_as

if TYPE_CHECKING:
    from apps.execution.models import Artifact


def download(request: HttpRequest, artifact: Artifact, *, by: Principal) -> HttpResponseBase:
    """The file, to be saved and never shown; a 304 for who has it already, by its SHA-256 in ``If-None-Match``.

    The audit entry stands before the first byte leaves, so a download that its reader breaks off is in the trail, too.
    Whether ``by`` may read it was asked before. Raises ArtifactUnreadable, which is audited as well.
    """
    tag = quote_etag(artifact.sha256)
    answer: HttpResponseBase | None = get_conditional_response(request, etag=tag)
    if answer is None:
        answer = HttpResponse() if request.method == "HEAD" else _file(artifact, by)
        answer.headers["Content-Type"] = served_as(artifact.media_type)
        answer.headers["Content-Length"] = str(artifact.size)
        answer.headers["Content-Disposition"] = disposition(artifact.name)
    answer.headers["ETag"] = tag
    # A browser that kept it would give it to the next person at the machine, and nobody would know.
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _file(artifact: Artifact, by: Principal) -> HttpResponseBase:
    try:
        file = artifact.open()
    except ArtifactUnreadable as error:
        _record(artifact, by, success=False, reason=error.reason)
        raise
    try:
        _record(artifact, by)
    except BaseException:
        file.close()
        raise
    return FileResponse(file)


def _record(artifact: Artifact, by: Principal, *, success: bool = True, reason: str = "") -> None:
    details = {"swarm": str(artifact.swarm_id), "sha256": artifact.sha256, "bytes": artifact.size}
    trail.record(
        by,
        "artifact:read",
        artifact,
        tenant_id=artifact.tenant_id,
        success=success,
        reason=reason,
        details=details,
    )
