"""Exporting a month: audited, and the same file for ever once the month is closed.

The hash of the first export of a closed month is kept, and every later one is held against it. Small files are kept
themselves; one that is made anew is compared when it is whole, so its reader must take it for nothing before the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NoReturn

import structlog
from django.db import transaction

from apps.audit import trail
from apps.costs.exports.extract import Extract
from apps.costs.exports.formats import WRITERS, Format
from apps.costs.models import StatementExport
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

log = structlog.get_logger(__name__)


class ExportDiffers(Exception):
    """The file is not the one that was exported before; the text says how, for a person."""


def export(extract: Extract, format: Format, *, by: Principal) -> Iterator[bytes]:
    """The file of a month, in pieces; that it was asked for is in the audit trail when this returns.

    Raises AccessDenied, and ExportDiffers: for a file that is made anew, only after its last piece.
    """
    by.verify(Permission.COST_READ, extract.tenant_id)
    with transaction.atomic():
        _record(extract, format, by)
    if not extract.is_closed:
        return WRITERS[format].write(extract)
    return iter([_kept(extract, format, by)]) if WRITERS[format].is_kept else _compared(extract, format, by)


def _kept(extract: Extract, format: Format, by: Principal) -> bytes:
    """The file that was kept; the first time, it is made and kept."""
    first = _first(extract, format)
    if first is None:
        content = b"".join(WRITERS[format].write(extract))
        first = _keep(extract, format, hashlib.sha256(content).hexdigest(), len(content), content)
    if first.content is None or not first.is_intact:
        _refuse(first, extract, format, by, "the file that was kept was changed in the database")
    return bytes(first.content)


def _compared(extract: Extract, format: Format, by: Principal) -> Iterator[bytes]:
    """The file, made anew; an error instead of its end when it is not the one that was made first."""
    digest, size = hashlib.sha256(), 0
    for piece in WRITERS[format].write(extract):
        digest.update(piece)
        size += len(piece)
        yield piece
    first = _first(extract, format) or _keep(extract, format, digest.hexdigest(), size)
    if first.sha256 != digest.hexdigest():
        version = WRITERS[format].version
        cause = (
            f"it was written by {first.version}, and this program writes {version}"
            if first.version != version
            else "the ledger or the terms of the closed month were changed past the database's protection"
        )
        _refuse(first, extract, format, by, f"its SHA-256 is {digest.hexdigest()}, not {first.sha256}: {cause}")


def _first(extract: Extract, format: Format) -> StatementExport | None:
    return StatementExport.objects.filter(tenant_id=extract.tenant_id, period=extract.period, format=format).first()


def _keep(extract: Extract, format: Format, sha256: str, size: int, content: bytes | None = None) -> StatementExport:
    """Keeps the first export; should another have been first meanwhile, that one is it."""
    values = {"sha256": sha256, "size": size, "version": WRITERS[format].version, "content": content}
    first, _ = StatementExport.objects.get_or_create(
        tenant_id=extract.tenant_id, period=extract.period, format=format, defaults=values
    )
    return first


def _refuse(first: StatementExport, extract: Extract, format: Format, by: Principal, how: str) -> NoReturn:
    reason = (
        f"The {format.label} export of {extract.tenant_slug}, {extract.period}, is not the file that was exported on "
        f"{first.made_at:%Y-%m-%d %H:%M} UTC: {how}."
    )
    log.error("export_differs", tenant_id=str(extract.tenant_id), period=extract.period, format=format, reason=reason)
    with transaction.atomic():
        _record(extract, format, by, success=False, reason=reason)
    raise ExportDiffers(reason)


def _record(extract: Extract, format: Format, by: Principal, *, success: bool = True, reason: str = "") -> None:
    details = {
        "what": "statement",
        "period": extract.period,
        "format": format.value,
        "status": "closed" if extract.is_closed else "draft",
    }
    trail.record(
        by,
        "cost:export",
        Tenant(pk=extract.tenant_id),
        tenant_id=extract.tenant_id,
        success=success,
        reason=reason,
        details=details,
    )
