"""Exports of closed months are the same file for ever, audited, and for those only who may read the costs. # C7"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import threading
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import AsyncClient, Client
from django.urls import reverse

from apps.audit.models import AuditEntry
from apps.costs import admin_exports
from apps.costs.admin_exports import export_url
from apps.costs.entries import write
from apps.costs.exports.files import ExportDiffers, export
from apps.costs.exports.formats import WRITERS, Format, file_name
from apps.costs.models import Kind, Price, StatementExport
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.focus import violations
from tests.statements import OCTOBER, call, entry, october_of, one_of_each, rows_of
from tests.workbooks import sheets_of

PAGE = "admin:costs_export"
NOVEMBER = OCTOBER + dt.timedelta(days=30)
SOMEBODY = principal_of_command("test")
every_format = pytest.mark.parametrize("format", list(Format))


def exported(tenant: Tenant, format: Format, **changes: object) -> bytes:
    return b"".join(export(october_of(tenant, **changes), format, by=SOMEBODY))


# -- the same file for ever --------------------------------------------------------------------------------------------


@every_format
def test_a_closed_month_is_the_same_file_whatever_happens_later(acme: Tenant, format: Format) -> None:
    """What is exported comes from the ledger of the month and the terms that were frozen when it was closed."""
    ids = one_of_each(acme)
    closed = october_of(acme)
    first = b"".join(export(closed, format, by=SOMEBODY))
    Tenant.objects.filter(pk=acme.pk).update(name="Acme Holding", slug="holding", time_zone="Asia/Tokyo")
    Price.objects.create(tenant=acme, provider="openai", model="gpt-4o", input_per_mtok=1, output_per_mtok=1)
    write([entry(acme, kind=Kind.ADJUSTMENT, amount=-50, corrects=ids[0], at=NOVEMBER)], now=NOVEMBER)
    write([call(acme, (10, 5, 0, 0), at=NOVEMBER)], now=NOVEMBER)
    assert b"".join(export(closed, format, by=SOMEBODY)) == first
    kept = StatementExport.objects.get()
    assert (kept.sha256, kept.size) == (hashlib.sha256(first).hexdigest(), len(first))
    assert (kept.format, kept.version) == (format.value, WRITERS[format].version)


@every_format
def test_a_file_that_is_made_again_from_nothing_is_the_same_too(acme: Tenant, format: Format) -> None:
    """The writers are deterministic by themselves, also where the file is kept."""
    one_of_each(acme)
    first = b"".join(WRITERS[format].write(october_of(acme)))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TIME ZONE 'Asia/Kolkata'")
        cursor.execute("SET LOCAL datestyle TO 'SQL, DMY'")
        cursor.execute("SET LOCAL enable_hashagg TO off")
    assert b"".join(WRITERS[format].write(october_of(acme))) == first


@pytest.mark.parametrize("format", [Format.CSV, Format.XLSX])
def test_a_small_file_is_kept_and_not_made_anew(acme: Tenant, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of a library may write other bytes."""
    one_of_each(acme)
    first = exported(acme, format)
    write([call(acme, (10, 5, 0, 0))], now=OCTOBER)
    assert exported(acme, format) == first
    assert exported(acme, format, is_closed=False) != first


def test_a_focus_file_that_differs_fails_and_says_so(acme: Tenant) -> None:
    one_of_each(acme)
    exported(acme, Format.FOCUS)
    write([call(acme, (10, 5, 0, 0))], now=OCTOBER)  # what the database refuses once the month is closed
    with pytest.raises(ExportDiffers, match=r"The FOCUS 1.2 export of acme, 2026-10, is not the file .* the ledger"):
        exported(acme, Format.FOCUS)
    failed = AuditEntry.objects.get(action="cost:export", success=False)
    assert "SHA-256" in failed.reason
    assert failed.tenant_id == acme.pk


def test_another_version_of_the_writer_is_named_as_the_cause(acme: Tenant) -> None:
    fields = {"tenant_id": acme.pk, "period": "2026-10", "format": "focus"}
    StatementExport.objects.create(**fields, sha256="0" * 64, size=1, version="focus-1.2/0")
    with pytest.raises(ExportDiffers, match=r"it was written by focus-1\.2/0, and this program writes focus-1\.2/1"):
        exported(acme, Format.FOCUS)


def test_a_kept_file_that_was_tampered_with_is_not_given_out(acme: Tenant) -> None:
    fields = {"tenant_id": acme.pk, "period": "2026-10", "format": "csv"}
    StatementExport.objects.create(**fields, sha256="0" * 64, size=1, version="csv/1", content=b"x")
    with pytest.raises(ExportDiffers, match="changed in the database"):
        exported(acme, Format.CSV)


def test_the_database_refuses_to_change_or_to_delete_what_was_exported(acme: Tenant) -> None:
    exported(acme, Format.CSV)
    for statement in ("UPDATE costs_statementexport SET size = 1", "DELETE FROM costs_statementexport"):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_a_draft_leaves_no_trace_but_in_the_trail(acme: Tenant) -> None:
    exported(acme, Format.CSV, is_closed=False)
    assert not StatementExport.objects.exists()
    assert AuditEntry.objects.get(action="cost:export").details["status"] == "draft"


def test_an_export_that_is_broken_off_leaves_no_hash(acme: Tenant) -> None:
    one_of_each(acme)
    pieces = export(october_of(acme), Format.FOCUS, by=SOMEBODY)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not StatementExport.objects.exists()


def test_many_first_exports_at_once_are_one_file(own_database: str, acme: Tenant) -> None:
    one_of_each(acme)
    files: list[bytes] = []
    start = threading.Barrier(6)

    def work(format: Format) -> None:
        start.wait()
        try:
            files.append(exported(acme, format))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(format,)) for format in [Format.XLSX, Format.FOCUS] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files) == 6
    assert len(set(files)) == 2
    assert StatementExport.objects.count() == 2


# -- who may ---------------------------------------------------------------------------------------------------------


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def test_only_who_reads_the_costs_exports_them(acme: Tenant, outsider: User, finance: User) -> None:
    with pytest.raises(AccessDenied):
        export(october_of(acme), Format.CSV, by=principal_of(outsider))
    assert not StatementExport.objects.exists()
    assert list(export(october_of(acme), Format.CSV, by=principal_of(finance)))


@every_format
def test_finance_downloads_a_month(acme: Tenant, finance: User, format: Format) -> None:
    one_of_each(acme)
    response: Any = staff(finance).get(export_url(acme, "2026-10", format))
    content = b"".join(response.streaming_content)
    assert response["Content-Disposition"] == f'attachment; filename="{file_name(october_draft(acme), format)}"'
    assert response["Content-Type"] == WRITERS[format].content_type
    assert "no-store" in response["Cache-Control"]
    match format:
        case Format.FOCUS:
            assert violations(content.decode()) == []
        case Format.XLSX:
            assert "Summary" in sheets_of(content)
        case Format.CSV:
            assert len(rows_of(content.decode())) > 5
    audited = AuditEntry.objects.get(action="cost:export")
    assert (audited.actor, audited.tenant_id, audited.success) == (str(finance.pk), acme.pk, True)
    assert audited.details["format"] == format.value


def october_draft(tenant: Tenant) -> Any:
    return october_of(tenant, is_closed=False)


def test_the_outsider_is_not_offered_the_tenant_and_gets_nothing(acme: Tenant, outsider: User) -> None:
    one_of_each(acme)
    client = staff(outsider)
    assert "Acme" not in client.get(reverse(PAGE)).content.decode()
    response = client.get(export_url(acme, "2026-10", Format.FOCUS))
    assert not response.streaming
    assert "Select a valid choice" in response.content.decode()
    assert not AuditEntry.objects.filter(action="cost:export").exists()


def test_staff_without_a_role_that_reads_costs_cannot_open_the_page(acme: Tenant, db: None) -> None:
    nobody = User.objects.create(username="nobody")
    Membership.objects.create(user=nobody, tenant=acme, role=Role.COMPLIANCE)
    assert staff(nobody).get(reverse(PAGE)).status_code == 403


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("tenant=acme&period=2999-01&format=csv", "has not begun"),
        ("tenant=acme&period=soon&format=csv", "is not a month such as 2026-10"),
        ("tenant=acme&period=2026-10&format=pdf", "Choose one of the formats"),
        ("tenant=&period=&format=csv", "This field is required"),
    ],
)
def test_what_makes_no_sense_is_said_on_the_form(acme: Tenant, finance: User, query: str, says: str) -> None:
    page = staff(finance).get(f"{reverse(PAGE)}?{query}").content.decode()
    assert says in page


def test_a_tampered_file_is_said_on_the_page(acme: Tenant, finance: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_exports, "extract_of", lambda tenant, period, now: october_of(tenant))
    fields = {"tenant_id": acme.pk, "period": "2026-10", "format": "csv"}
    StatementExport.objects.create(**fields, sha256="0" * 64, size=1, version="csv/1", content=b"x")
    page = staff(finance).get(export_url(acme, "2026-10", Format.CSV)).content.decode()
    assert "was changed in the database" in page


def test_the_page_and_a_download_take_few_queries(
    acme: Tenant, finance: User, django_assert_max_num_queries: Any
) -> None:
    one_of_each(acme)
    client = staff(finance)
    with django_assert_max_num_queries(8):
        client.get(reverse(PAGE))
    with django_assert_max_num_queries(12):
        response: Any = client.get(export_url(acme, "2026-10", Format.FOCUS))
        b"".join(response.streaming_content)


def test_under_an_asynchronous_server_the_file_arrives_in_pieces(
    own_database: str, acme: Tenant, finance: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.copying.PIECE", 2000)
    one_of_each(acme)
    finance.is_staff = True
    finance.save()

    async def fetch() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(finance)
        response: Any = await client.get(export_url(acme, "2026-10", Format.FOCUS))
        return [piece async for piece in response.streaming_content]

    pieces = asyncio.run(fetch())
    assert len(pieces) > 2
    assert violations(b"".join(pieces).decode()) == []


def test_the_first_exports_are_listed_with_their_hash_and_whether_they_are_intact(acme: Tenant, finance: User) -> None:
    content = exported(acme, Format.CSV)
    client = staff(finance)
    page = client.get(reverse("admin:costs_statementexport_changelist")).content.decode()
    assert hashlib.sha256(content).hexdigest() in page
    row = StatementExport.objects.get()
    assert "intact" in client.get(reverse("admin:costs_statementexport_change", args=[row.pk])).content.decode()
