"""The one download behind all doors to a file of an agent: as it was kept, never to be shown, and audited."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

import pytest
from django.core.files.storage import storages
from django.test import RequestFactory

from apps.execution.artifacts.downloading import download
from apps.execution.models import Artifact
from apps.swarms.models import Swarm, Task
from apps.tenants.access import principal_of
from apps.tenants.models import User
from portal.web import ThreadedHandler
from tests.api_client import Caller, is_refusal
from tests.artifacts import make_artifact
from tests.test_artifact_doors import (
    LARGE,
    client_of,
    content_of,
    objects_in_files,
    page_of,
    read,
    reads,
    report,
    swarm,
    tasks,
)

__all__ = ["objects_in_files", "report", "swarm", "tasks"]
pytestmark = pytest.mark.django_db  # E8
BOTH = pytest.mark.parametrize("address", [content_of, page_of])


@BOTH
@pytest.mark.parametrize("stored", [False, True])
def test_a_file_comes_to_be_saved_and_never_to_be_shown(
    address: Any, stored: bool, viewer: User, tasks: list[Task]
) -> None:
    data = LARGE if stored else b"<script>alert(1)</script>"
    file = make_artifact(tasks[0], "out/page.html", data, media_type="text/html", stored=stored)
    response = client_of(viewer).get(address(file))
    assert read(response) == data
    headers = response.headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == 'attachment; filename="page.html"'
    assert headers["Content-Length"] == str(len(data))
    assert headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in headers["Cache-Control"]
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "sandbox"} <= set(policy)


@pytest.mark.parametrize(
    ("media_type", "served"),
    [("text/csv", "text/csv"), ("image/png", "image/png"), ("image/svg+xml", "application/octet-stream")],
)
def test_its_type_is_told_where_nothing_comes_of_it(
    media_type: str, served: str, viewer: User, tasks: list[Task]
) -> None:
    file = make_artifact(tasks[0], "a", media_type=media_type)
    assert Caller(viewer).get(content_of(file))["Content-Type"] == served


@BOTH
@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("…/ü.html", "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%BC.html"),
        ('a"; filename="b.exe', 'attachment; filename="a_; filename=_b.exe"'),
        ("x" * 251 + ".csv", f'attachment; filename="{"x" * 196}.csv"'),
        ("<b>&amp;.txt", 'attachment; filename="_b_&amp;.txt"'),
    ],
)
def test_odd_names_are_honest_file_names(
    address: Any, name: str, disposition: str, viewer: User, tasks: list[Task]
) -> None:
    file = make_artifact(tasks[0], name)
    assert client_of(viewer).get(address(file))["Content-Disposition"] == disposition


@BOTH
def test_a_file_without_bytes_is_a_file(address: Any, viewer: User, tasks: list[Task]) -> None:
    response = client_of(viewer).get(address(make_artifact(tasks[0], "empty", b"")))
    assert (response.status_code, response["Content-Length"], read(response)) == (200, "0", b"")


def test_who_has_it_already_is_told_so_and_downloads_nothing(viewer: User, report: Artifact) -> None:
    call = Caller(viewer)
    tag = call.get(content_of(report))["ETag"]
    again = call.get(content_of(report), If_None_Match=f'"other", {tag}')
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
    assert call.get(content_of(report), If_None_Match='"other"').status_code == 200
    assert len(reads()) == 2, "each time that bytes left"


def test_asking_for_the_head_alone_downloads_nothing(viewer: User, report: Artifact) -> None:
    web = client_of(viewer)
    for address in (content_of(report), page_of(report)):
        response = web.head(address)
        assert (response.status_code, response["Content-Length"], response.content) == (200, "9", b"")
    assert reads() == []


@pytest.mark.parametrize("accept", ["image/png", "text/html, */*;q=0.1", "nonsense"])
def test_whatever_is_asked_for_the_file_comes_as_it_is(accept: str, viewer: User, report: Artifact) -> None:
    assert read(Caller(viewer).get(content_of(report), Accept=accept)) == b"# Report\n"


@BOTH
def test_a_download_is_in_the_trail_before_its_first_byte(
    address: Any, viewer: User, swarm: Swarm, tasks: list[Task]
) -> None:  # G5
    file = make_artifact(tasks[0], "large", LARGE, stored=True)
    response = client_of(viewer).get(address(file))
    (entry,) = reads()
    response.close()  # by a reader who wants no more
    assert (entry.actor, entry.resource_kind, entry.resource_id) == (str(viewer.pk), "artifact", str(file.pk))
    assert (entry.tenant_id, entry.success) == (swarm.tenant_id, True)
    assert entry.details == {"swarm": str(swarm.pk), "sha256": file.sha256, "bytes": len(LARGE)}


def test_a_file_that_is_gone_is_said_to_be_and_audited(viewer: User, tasks: list[Task]) -> None:
    file = make_artifact(tasks[0], "large", LARGE, stored=True)
    storages["artifacts"].delete(file.key)
    why = "its object is not in storage any more"
    refused = Caller(viewer).get(content_of(file))
    assert is_refusal(refused, 409)
    assert refused.json()["errors"][0] == {
        "code": "unreadable",
        "detail": f"The file large cannot be read: {why}.",
        "attr": None,
    }
    page = client_of(viewer).get(page_of(file), follow=True)
    assert page.redirect_chain == [(f"/swarms/{file.swarm_id}/", 302)]
    assert f"The file large cannot be read: {why}." in page.content.decode()
    assert [(entry.success, entry.reason) for entry in reads()] == [(False, why)] * 2


def test_a_large_file_is_sent_in_pieces_and_never_held_as_a_whole(viewer: User, tasks: list[Task]) -> None:
    size = 24_000_000
    file = make_artifact(tasks[0], "large", bytes(size), stored=True)
    got = hashlib.sha256()
    tracemalloc.start()
    try:
        response: Any = download(RequestFactory().get("/"), file, by=principal_of(viewer))
        response.block_size = ThreadedHandler.chunk_size  # as the web server does
        for piece in response:
            got.update(piece)
        peak = tracemalloc.get_traced_memory()[1]
        response.close()
    finally:
        tracemalloc.stop()
    assert got.hexdigest() == file.sha256
    assert peak < 2_000_000
