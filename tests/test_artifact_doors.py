"""Files of agents at the doors: the API, the console and the administration."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.console.sentences import sentence
from apps.execution.models import Artifact, Attempt
from apps.swarms.models import Swarm, Task
from apps.tenants.access import principal_of
from apps.tenants.granting import give
from apps.tenants.models import AccessPolicy, PolicyState, Tenant, User
from apps.tenants.replaying import replay
from apps.tenants.roles import Permission, Resource
from tests.api_client import V1, Caller, attrs, is_refusal
from tests.archives import files_in, terminated
from tests.artifacts import make_artifact
from tests.swarms import NOW, StepOf, make_swarm

pytestmark = pytest.mark.django_db  # E8
LARGE = bytes(range(256)) * 8_000
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(autouse=True)
def objects_in_files(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGES = files_in(tmp_path)
    return tmp_path / "artifacts"


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(acme, [StepOf("write", items=3), StepOf("sum", needs=["write"])])


@pytest.fixture
def tasks(swarm: Swarm) -> list[Task]:
    return list(Task.objects.filter(swarm=swarm).named())


@pytest.fixture
def report(tasks: list[Task]) -> Artifact:
    return make_artifact(tasks[0])


def client_of(user: User, *, staff: bool = False) -> Client:
    user.is_staff = staff
    user.save()
    client = Client()
    client.force_login(user)
    return client


def content_of(artifact: Artifact) -> str:
    return f"{V1}/artifacts/{artifact.pk}/content/"


def page_of(artifact: Artifact) -> str:
    return reverse("console:artifact", args=[artifact.pk])


def read(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def reads() -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action="artifact:read").order_by("id"))


# -- the API -----------------------------------------------------------------------------------------------------------


def test_a_file_is_told_with_all_but_its_bytes(viewer: User, report: Artifact, tasks: list[Task]) -> None:
    Artifact.objects.update(attempt_id=report.pk)
    call = Caller(viewer)
    (listed,) = call.get(f"/swarms/{report.swarm_id}/artifacts/").json()["results"]
    assert listed == {
        "id": str(report.pk),
        "swarm": str(report.swarm_id),
        "task": str(tasks[0].pk),
        "attempt": str(report.pk),
        "name": "report.md",
        "media_type": "text/markdown",
        "size": 9,
        "sha256": hashlib.sha256(b"# Report\n").hexdigest(),
        "created_at": f"{NOW:%Y-%m-%dT%H:%M:%SZ}",
        "download_url": f"http://testserver{content_of(report)}",
    }
    assert call.get(f"/artifacts/{report.pk}/").json() == listed
    assert read(call.get(listed["download_url"])) == b"# Report\n"


def test_swarms_and_tasks_say_where_their_files_are(viewer: User, report: Artifact, tasks: list[Task]) -> None:
    make_artifact(tasks[1], "other.md")
    call = Caller(viewer)
    of_swarm = call.get(f"/swarms/{report.swarm_id}/").json()["artifacts_url"]
    assert [row["name"] for row in call.get(of_swarm).json()["results"]] == ["other.md", "report.md"]
    for document in (
        call.get(f"/tasks/{tasks[0].pk}/").json(),
        call.get(f"/swarms/{report.swarm_id}/tasks/").json()["results"][0],
    ):
        assert [row["name"] for row in call.get(document["artifacts_url"]).json()["results"]] == ["report.md"]


def test_files_come_a_page_at_a_time_the_latest_first(viewer: User, tasks: list[Task]) -> None:
    for n in range(7):
        make_artifact(tasks[0], f"{n}.txt", created_at=NOW + n // 2 * MINUTE)
    call = Caller(viewer)
    page = call.get(f"/swarms/{tasks[0].swarm_id}/artifacts/?page_size=3").json()
    names = [row["name"] for row in page["results"]]
    while page["next"]:
        page = call.get(page["next"]).json()
        names += [row["name"] for row in page["results"]]
    assert names == [f"{n}.txt" for n in (6, 5, 4, 3, 2, 1, 0)]


def test_files_can_be_narrowed(viewer: User, swarm: Swarm, tasks: list[Task]) -> None:
    make_artifact(tasks[0], "out/Market brief.md")
    make_artifact(tasks[1], "chart.png", media_type="image/png")
    make_artifact(swarm, "50%.svg", media_type="image/svg+xml")
    call, path = Caller(viewer), f"/swarms/{swarm.pk}/artifacts/"

    def found(query: str) -> set[str]:
        return {row["name"] for row in call.get(f"{path}?{query}").json()["results"]}

    assert found(f"task={tasks[1].pk}") == {"chart.png"}
    assert found("search=brief+market") == {"out/Market brief.md"}
    assert found("search=%25") == {"50%.svg"}
    assert found("search=nothing") == set()
    assert found("media_type=image/PNG") == {"chart.png"}
    assert found("media_type=image/*") == {"chart.png", "50%.svg"}
    assert found("media_type=image") == set()
    for bad in ("task=7", "search=%00", "media_type=%00"):
        refused = call.get(f"{path}?{bad}")
        assert is_refusal(refused, 400)
        assert attrs(refused) == {bad.partition("=")[0]}


def test_queries_do_not_grow_with_the_files(
    viewer: User, swarm: Swarm, tasks: list[Task], django_assert_max_num_queries: Any
) -> None:
    for n in range(60):
        make_artifact(tasks[n % 3], f"{n}.txt")
    call, web = Caller(viewer), client_of(viewer)
    call.get("/me/")
    with django_assert_max_num_queries(4):  # token, principal, swarm, files
        assert len(call.get(f"/swarms/{swarm.pk}/artifacts/").json()["results"]) == 50
    file = Artifact.objects.all()[0]
    with django_assert_max_num_queries(3):
        call.get(f"/artifacts/{file.pk}/")
    with django_assert_max_num_queries(5):  # and its bytes, and the audit entry
        read(call.get(content_of(file)))
    with django_assert_max_num_queries(12):
        assert web.get(f"/swarms/{swarm.pk}/?part=files").content.count(b"data-when") == 10


# -- who ---------------------------------------------------------------------------------------------------------------


def test_outsiders_hear_that_there_is_no_such_file(
    outsider: User, finance: User, report: Artifact, swarm: Swarm
) -> None:  # A5
    for user in (outsider, finance):
        call, web = Caller(user), client_of(user, staff=True)
        for path in (f"/swarms/{swarm.pk}/artifacts/", f"/artifacts/{report.pk}/", content_of(report)):
            assert is_refusal(call.get(path), 404)
        assert web.get(page_of(report)).status_code == 404
        pages = web.get(reverse("admin:execution_artifact_changelist"))
        assert pages.status_code == 403 or "report.md" not in pages.content.decode()
    assert is_refusal(Caller(None).get(content_of(report)), 401)
    assert Client().get(page_of(report))["Location"].startswith("/login/")
    assert reads() == []


def test_a_grant_on_the_swarm_reaches_its_files_and_no_others(
    owner: User, outsider: User, acme: Tenant, report: Artifact
) -> None:  # A1
    other = make_artifact(make_swarm(acme, [StepOf("a")]), "other.md")
    assert client_of(outsider).get(page_of(report)).status_code == 404
    give(outsider, report.swarm_id, acme, gives=Permission.SWARM_READ, reason="asked", by=principal_of(owner))
    web = client_of(outsider)
    assert read(web.get(page_of(report))) == read(web.get(content_of(report))) == b"# Report\n"
    assert web.get(page_of(other)).status_code == web.get(content_of(other)).status_code == 404


@pytest.mark.parametrize("resource", [Resource.SWARM, Resource.TASK, None])
def test_a_policy_that_denies_reading_swarms_or_tasks_denies_their_files(
    resource: Resource | None, viewer: User, report: Artifact
) -> None:  # A4
    says = {"resources": [resource]} if resource else {}
    AccessPolicy.objects.create(
        name="Night", tenant=report.tenant, state=PolicyState.ENABLED, actions=[Permission.SWARM_READ], **says
    )
    web = client_of(viewer)
    for path in (content_of(report), f"{V1}/artifacts/{report.pk}/", page_of(report)):
        refused = web.get(path)
        assert refused.status_code == 403
        assert "The access policy “Night” denies swarm:read now." in refused.content.decode()
    assert reads() == []


def test_a_policy_under_test_is_told_of_the_downloads_it_would_have_denied(viewer: User, report: Artifact) -> None:
    read(client_of(viewer).get(page_of(report)))
    night = AccessPolicy.objects.create(name="Night", tenant=report.tenant, actions=[Permission.SWARM_READ])
    (denied,) = replay(night.as_value, days=7, now=timezone.now() + MINUTE).denied
    assert (denied.entry.action, denied.entry.resource_id) == ("artifact:read", str(report.pk))


# -- the console -------------------------------------------------------------------------------------------------------


def text_of(response: Any) -> str:
    """What a person reads: the page without its tags, and with single blanks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def test_the_swarm_lists_its_files_with_task_size_and_download(viewer: User, swarm: Swarm, tasks: list[Task]) -> None:
    file = make_artifact(tasks[0], "out/rows.csv", b"x" * 2_048, media_type="text/csv")
    make_artifact(swarm, "of the swarm.md")
    page = client_of(viewer).get(f"/swarms/{swarm.pk}/")
    html, text = page.content.decode(), text_of(page)
    assert f'href="{page_of(file)}"' in html
    assert "out/rows.csv text/csv write[0] 2.0 KB" in re.sub(r"\b(table|description) ", "", text)
    assert "of the swarm.md text/markdown – 9 bytes" in text


def test_the_event_is_a_sentence() -> None:
    said = sentence("artifact.created", {"artifact_id": "x", "size": 2_048}, "write[0]")
    assert said.text == "write[0] made a file of 2.0\xa0KB"


def test_a_swarm_without_files_has_no_empty_card_but_room_for_one(viewer: User, swarm: Swarm) -> None:
    web = client_of(viewer)
    assert re.search(r'<section id="part-files"[^>]* hidden>', web.get(f"/swarms/{swarm.pk}/").content.decode())
    make_artifact(swarm)
    part = web.get(f"/swarms/{swarm.pk}/?part=files").content.decode()
    assert re.match(r'<section id="part-files" [^>]*data-nouns="artifact" hx-swap-oob="true"\s+class="sd-card"', part)
    assert "report.md" in part


def test_the_page_of_a_task_lists_what_it_made(viewer: User, tasks: list[Task]) -> None:
    make_artifact(tasks[0], "mine.md")
    make_artifact(tasks[1], "theirs.md")
    shown = text_of(client_of(viewer).get(f"/tasks/{tasks[0].pk}/"))
    assert "mine.md" in shown
    assert "theirs.md" not in shown
    assert "Files" not in text_of(client_of(viewer).get(f"/tasks/{tasks[2].pk}/"))


def test_many_files_have_pages_beside_those_of_the_tasks(viewer: User, swarm: Swarm) -> None:
    for n in range(23):
        make_artifact(swarm, f"{n:02}.txt", created_at=NOW + n * MINUTE)
    web = client_of(viewer)
    seen = [re.findall(r"\d\d\.txt", text_of(web.get(f"/swarms/{swarm.pk}/?files={page}"))) for page in (1, 2, 3)]
    assert [*seen[0], *seen[1], *seen[2]] == [f"{n:02}.txt" for n in reversed(range(23))]
    assert len(seen[0]) == 10
    html = web.get(f"/swarms/{swarm.pk}/?files=2&status=ready").content.decode()
    assert 'href="?files=3&amp;status=ready#part-files"' in html
    assert web.get(f"/swarms/{swarm.pk}/?files=nonsense").status_code == 200


def test_a_name_is_text_on_every_page(viewer: User, swarm: Swarm) -> None:
    file = make_artifact(swarm, "<img src=x onerror=alert(1)>.svg", media_type="image/svg+xml")
    web = client_of(viewer, staff=True)
    for path in (
        f"/swarms/{swarm.pk}/",
        reverse("admin:execution_artifact_changelist"),
        reverse("admin:execution_artifact_change", args=[file.pk]),
    ):
        html = web.get(path).content.decode()
        assert "&lt;img src=x" in html
        assert "<img src=x" not in html


def test_an_archived_swarm_still_gives_its_files(acme: Tenant, viewer: User) -> None:  # O5
    swarm = terminated(acme)
    file = make_artifact(swarm)
    Swarm.objects.update(archived_at=NOW)
    web = client_of(viewer)
    assert "report.md" in text_of(web.get(f"/swarms/{swarm.pk}/"))
    assert web.get(f"{V1}/swarms/{swarm.pk}/artifacts/").json()["results"][0]["id"] == str(file.pk)
    assert read(web.get(page_of(file))) == b"# Report\n"


# -- the administration ------------------------------------------------------------------------------------------------

LIST = "/admin/execution/artifact/"


def test_files_are_found_by_name_size_hash_swarm_and_task(
    viewer: User, swarm: Swarm, tasks: list[Task], rival: Tenant
) -> None:
    small = make_artifact(tasks[0], "small.md")
    large = make_artifact(tasks[1], "large.bin", LARGE, media_type="image/png", stored=True)
    make_artifact(make_swarm(rival, [StepOf("a")]), "theirs.md")
    web = client_of(viewer, staff=True)

    def found(query: str = "") -> set[str]:
        return set(re.findall(r"(?:small|large|theirs)\.\w+", web.get(f"{LIST}?{query}").content.decode()))

    both = {"small.md", "large.bin"}
    assert found() == both
    for query, names in (
        ("q=SMALL", {"small.md"}),
        (f"q={large.sha256}", {"large.bin"}),
        ("q=2,048,000", {"large.bin"}),
        (f"q={10**30}", set()),
        (f"q={tasks[0].pk}", {"small.md"}),
        (f"q={swarm.pk}", both),
        (f"swarm__id__exact={swarm.pk}", both),
        (f"task__id__exact={tasks[1].pk}", {"large.bin"}),
        ("media_type__icontains=markdown", {"small.md"}),
        ("place=storage", {"large.bin"}),
        ("place=database", {"small.md"}),
    ):
        assert found(query) == names, query
    page = web.get(f"{LIST}{large.pk}/change/").content.decode()
    assert f'href="{page_of(large)}"' in page
    assert "2,048,000 bytes" in page
    assert large.sha256 in page
    assert str(small.pk) not in page


def test_swarms_tasks_and_attempts_lead_to_their_files(viewer: User, tasks: list[Task]) -> None:
    task = tasks[0]
    attempt = Attempt.objects.create(id=task.pk, task=task, number=1, started_at=NOW, outcome="succeeded")
    web = client_of(viewer, staff=True)
    pages = [
        f"/admin/swarms/task/{task.pk}/change/",
        f"/admin/execution/attempt/{attempt.pk}/change/",
    ]
    assert all("mine.md" not in web.get(page).content.decode() for page in pages)
    file = make_artifact(task, "mine.md")
    make_artifact(tasks[1], "theirs.md")
    for page in pages:
        html = web.get(page).content.decode()
        assert f'href="{page_of(file)}"' in html
        assert f'href="{LIST}?task__id__exact={task.pk}"' in html
        assert "theirs.md" not in html
    of_swarm = web.get(f"/admin/swarms/swarm/{task.swarm_id}/change/").content.decode()
    assert f'href="{LIST}?swarm__id__exact={task.swarm_id}"' in of_swarm


def test_lists_never_load_what_is_in_the_files(viewer: User, tasks: list[Task]) -> None:
    for n in range(25):
        make_artifact(tasks[0], f"{n}.txt")
    web = client_of(viewer, staff=True)
    addresses = (
        LIST,
        f"/admin/swarms/task/{tasks[0].pk}/change/",
        f"/swarms/{tasks[0].swarm_id}/",
        f"/tasks/{tasks[0].pk}/",
        f"{V1}/swarms/{tasks[0].swarm_id}/artifacts/",
    )
    for address in addresses:
        with CaptureQueriesContext(connection) as asked:
            web.get(address)
        about_files = [query["sql"] for query in asked if 'FROM "execution_artifact"' in query["sql"]]
        assert about_files
        assert not [sql for sql in about_files if '"content"' in sql], address
        assert len(about_files) <= 2, address
