"""Archives at the doors: the API, the console, and the administration with its download."""  # O4, A5

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.execution.models import Archive
from apps.swarms.models import Swarm
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.archives import files_in, terminated

pytestmark = pytest.mark.django_db
CONTENT = gzip.compress(b'{"format": 1}', mtime=0)


@pytest.fixture(autouse=True)
def archive_in_files(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGES = files_in(tmp_path)
    return tmp_path


@pytest.fixture
def archive(acme: Tenant) -> Archive:
    """A stored archive of acme's."""
    swarm = terminated(acme, now=timezone.now())
    key = storages["archive"].save(f"{acme.pk}/{swarm.pk}/x.json.gz", ContentFile(CONTENT))
    Swarm.objects.filter(pk=swarm.pk).update(archived_at=timezone.now())
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Archive.objects.create(
        swarm=swarm, tenant=acme, key=key, size=len(CONTENT), sha256=sha256, stored_at=timezone.now(), tries=1
    )


def logged_in(user: User, *, staff: bool = True) -> Client:
    user.is_staff = staff
    user.save()
    client = Client()
    client.force_login(user)
    return client


def page(name: str, *args: Any) -> str:
    return reverse(f"admin:execution_archive_{name}", args=args)


def test_the_api_says_archived(acme: Tenant, viewer: User) -> None:
    swarm = terminated(acme)
    client = logged_in(viewer)
    address = f"/api/v1/swarms/{swarm.pk}/"
    assert client.get(address).json()["archived"] is False
    Swarm.objects.filter(pk=swarm.pk).update(archived_at=timezone.now())
    assert client.get(address).json()["archived"] is True
    assert client.get("/api/v1/swarms/").json()["results"][0]["archived"] is True


def test_the_console_says_archived(archive: Archive, viewer: User, outsider: User) -> None:
    address = reverse("console:swarm", args=[archive.swarm_id])
    text = logged_in(viewer).get(address).content.decode()
    assert "Archived <time" in text
    Swarm.objects.update(archived_at=None)
    assert "Being archived" in logged_in(viewer).get(address).content.decode()
    assert logged_in(outsider).get(address).status_code == 404


def test_the_swarm_leads_to_its_archive(archive: Archive, operator: User) -> None:
    client = logged_in(operator)
    text = client.get(reverse("admin:swarms_swarm_change", args=[archive.swarm_id])).content.decode()
    listed = f"{page('changelist')}?swarm__id__exact={archive.swarm_id}"
    assert listed in text
    assert page("change", archive.pk) in client.get(listed).content.decode()
    Swarm.objects.update(archived_at=None)
    text = client.get(reverse("admin:swarms_swarm_change", args=[archive.swarm_id])).content.decode()
    assert "Being written" in text


def download(client: Client, archive: Archive) -> HttpResponse:
    response: HttpResponse = client.get(page("download", archive.pk))  # type: ignore[assignment]
    return response


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.COMPLIANCE, Role.VIEWER])
def test_who_reads_swarms_downloads_the_document_and_is_audited(role: Role, acme: Tenant, archive: Archive) -> None:
    user = User.objects.create_user("reader", password="correct horse battery")
    Membership.objects.create(user=user, tenant=acme, role=role)
    client = logged_in(user)
    assert page("download", archive.pk) in client.get(page("change", archive.pk)).content.decode()
    response = download(client, archive)
    assert b"".join(response.streaming_content) == CONTENT  # type: ignore[attr-defined]
    assert response["Content-Type"] == "application/gzip"
    assert response["Content-Disposition"] == f'attachment; filename="test-{str(archive.swarm_id)[-12:]}.json.gz"'
    assert response["Content-Length"] == str(len(CONTENT))
    assert "Content-Encoding" not in response
    entry = AuditEntry.objects.get(action="archive:read")
    assert (entry.actor, entry.resource_id, entry.tenant_id) == (str(user.pk), str(archive.pk), acme.pk)
    assert entry.details == {"swarm": str(archive.swarm_id), "sha256": archive.sha256}


def test_nobody_else_does(archive: Archive, finance: User, outsider: User) -> None:
    for user in (finance, outsider):
        client = logged_in(user)
        for address in (page("download", archive.pk), page("change", archive.pk)):
            assert client.get(address).status_code in (302, 403)
        assert page("change", archive.pk) not in client.get(page("changelist")).content.decode()
    assert Client().get(page("download", archive.pk)).status_code == 302, "to the login"
    assert not AuditEntry.objects.filter(action="archive:read").exists()


def test_a_document_that_is_gone_is_said_to_be_and_audited(archive: Archive, operator: User) -> None:
    storages["archive"].delete(archive.key)
    client = logged_in(operator)
    response = client.get(page("download", archive.pk), follow=True)
    assert "The object storage does not give it out: FileNotFoundError" in response.content.decode()
    entry = AuditEntry.objects.get(action="archive:read")
    assert entry.success is False


def test_what_is_not_stored_yet_cannot_be_downloaded_and_says_why(acme: Tenant, operator: User) -> None:
    waiting, failing = (Archive.objects.create(swarm=terminated(acme), tenant=acme, error=e) for e in ("", "Disk full"))
    client = logged_in(operator)
    for archive in (waiting, failing):
        assert page("download", archive.pk) not in client.get(page("change", archive.pk)).content.decode()
        assert "It is not stored yet." in client.get(page("download", archive.pk), follow=True).content.decode()
    shown = client.get(page("changelist") + "?state=failing").content.decode()
    assert "Disk full" in shown
    assert str(waiting.pk) not in shown
    shown = client.get(page("changelist") + "?state=waiting").content.decode()
    assert str(waiting.pk) in shown
    assert str(failing.pk) not in shown
    assert "No results" not in shown
    assert str(waiting.pk) not in client.get(page("changelist") + "?state=stored").content.decode()


def test_an_odd_name_of_a_swarm_is_an_honest_file_name(archive: Archive, operator: User) -> None:
    Swarm.objects.update(name='../"ä\n.exe')
    header = download(logged_in(operator), archive)["Content-Disposition"]
    assert header.startswith("attachment; ")
    assert "\n" not in header
    assert "/" not in header


def test_the_event_is_a_sentence(archive: Archive, viewer: User) -> None:
    from apps.console.sentences import sentence

    assert sentence("swarm.archived", {"size": 2_000}, "test").text == "Archived"
    assert json.loads(gzip.decompress(CONTENT)) == {"format": 1}
