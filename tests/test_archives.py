"""What is kept of a terminated swarm, and how it gets there."""  # O4

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection, models, transaction
from django_q.models import OrmQ

from apps.audit.models import AuditEntry
from apps.costs.models import LedgerEntry, Reservation
from apps.events.models import Event
from apps.execution import archive_document, archiving
from apps.execution.models import Archive, Artifact, Attempt
from apps.observability import wholeness
from apps.swarms import progress
from apps.swarms.actions import lifecycle
from apps.swarms.models import Agent, AgentOverride, Step, Swarm, SwarmStatus, Task, TaskStatus
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from portal.money import usd_text
from tests import desk
from tests.archives import REASON, archived, document, files_in, terminated
from tests.artifacts import make_artifact
from tests.swarms import NOW, StepOf, make_swarm

MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(autouse=True)
def archive_in_files(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGES = files_in(tmp_path)
    return tmp_path


def a_run(tenant: Tenant, user: User) -> Swarm:
    """Of four tasks to read, one succeeded, one waits for its retry, two were never tried; then it was terminated."""
    desk.models_for_sale()
    desk.platform_is_up(NOW)
    AgentOverride.objects.create(tenant=tenant, agent="writer", model="simulated:small")
    swarm = desk.started(desk.spec("reading", budget_usd=1, end_user="user-8842"), tenant, user, NOW)
    one, other = desk.take(2, NOW)
    desk.work(now=NOW, of=[one])
    desk.work(now=NOW, of=[other], status=TaskStatus.WAITING, error="Answer 500.")
    return lifecycle.terminate(swarm, by=principal_of(user), reason=REASON, now=NOW + MINUTE)


# -- the document ------------------------------------------------------------------------------------------------------


def test_the_document_tells_all_of_a_swarm(own_database: str, acme: Tenant, owner: User) -> None:
    swarm = a_run(acme, owner)
    task = swarm.tasks.get(status="succeeded")
    make_artifact(task, "facts.md", b"# Facts")
    kept = make_artifact(task, "rows.csv", b"a,b", stored=True, media_type="text/csv")
    told = document(archived(swarm, now=NOW + MINUTE))
    assert list(told) == ["format", "swarm", "spec", "cost", "agents", "steps", "tasks", "artifacts", "events"]
    assert told["format"] == 1
    assert told["spec"] == swarm.spec
    assert told["swarm"]["overrides"] == {"writer": {"model": ["simulated:large", "simulated:small"]}}
    assert [agent["model"] for agent in told["agents"]] == ["simulated:small", "simulated:small"]
    assert told["swarm"]["id"] == str(swarm.pk)
    assert (told["swarm"]["status"], told["swarm"]["status_reason"]) == ("terminated", REASON)
    assert (told["swarm"]["priority"], told["swarm"]["finished_at"]) == ("normal", "2026-11-21T12:01:00Z")
    spent = usd_text(2 * 3 * desk.MILLION)
    assert told["cost"] == {
        "llm_usd": spent, "infrastructure_usd": "0.00", "storage_usd": "0.00", "adjustment_usd": "0.00",
        "total_usd": spent,
    }  # fmt: skip
    assert [agent["name"] for agent in told["agents"]] == ["reader", "writer"]
    assert [(step["name"], step["prompt"]) for step in told["steps"]] == [
        ("read", "Read {{ item }}."),
        ("write", "Sum up: {{ results.read }}"),
    ]
    tasks = told["tasks"]
    assert [task["item"] for task in tasks] == ["page 0", "page 1", "page 2", "page 3", None]
    assert [task["status"] for task in tasks] == ["succeeded", *["cancelled"] * 4]
    assert tasks[0]["result"] == "Three facts on page 0."
    assert tasks[1]["error"] == f"The swarm was terminated: {REASON}"
    [tried] = tasks[1]["attempts"]
    assert (tried["outcome"], tried["error"], tried["cost_usd"]) == (
        "failed",
        "Answer 500.",
        usd_text(3 * desk.MILLION),
    )
    assert tried["context"] == {"model": "simulated:small", "prompt": "Read page 1.", "region": "here"}
    assert [len(task["attempts"]) for task in tasks] == [1, 1, 0, 0, 0]
    assert [(file["name"], file["size"], file["place"], file["key"]) for file in told["artifacts"]] == [
        ("facts.md", 7, "database", ""),
        ("rows.csv", 3, "object storage", kept.key),
    ]
    assert {file["task_id"] for file in told["artifacts"]} == {str(task.pk)}
    assert "content" not in told["artifacts"][0]
    happened = list(Event.objects.filter(swarm_id=swarm.pk).order_by("pk").values_list("kind", flat=True))
    assert [event["kind"] for event in told["events"]] == happened[:-1]
    assert happened[-2:] == ["swarm.terminated", "swarm.archived"]


KEPT_ELSEWHERE: dict[type[models.Model], set[str]] = {
    Swarm: {
        "spec",  # a part of its own
        "holds_resources", "queue_reason", "queue_position", "estimated_start", "version", "archived_at",
    },
    Agent: {"swarm_id", "slots_free"},
    Step: {"swarm_id", "open_needs", "tasks_open"},
    Task: {"swarm_id", "rank", "ready_at", "lease_token", "lease_expires_at", "runner_id"},
    Attempt: {"task_id", "estimated", "cost"},  # with the task; in USD
    Artifact: {"swarm_id", "tenant_id", "content"},
    Event: {"tenant_id", "swarm_id"},
}  # fmt: skip
PARTS: dict[type[models.Model], tuple[str, ...]] = {
    Swarm: archive_document.SWARM,
    Agent: archive_document.AGENT,
    Step: archive_document.STEP,
    Task: archive_document.TASK,
    Attempt: archive_document.ATTEMPT,
    Artifact: archive_document.ARTIFACT,
    Event: archive_document.EVENT,
}


@pytest.mark.parametrize("model", PARTS, ids=lambda model: model.__name__)
def test_no_field_is_forgotten(model: type[models.Model]) -> None:
    names = {field.attname for field in model._meta.concrete_fields}
    assert set(PARTS[model]) | KEPT_ELSEWHERE[model] == names, "say in the document, or here, what becomes of it"
    assert not set(PARTS[model]) & KEPT_ELSEWHERE[model]


def test_the_same_rows_make_the_same_bytes(own_database: str, acme: Tenant, owner: User) -> None:
    swarm = a_run(acme, owner)
    archive = archived(swarm, now=NOW + MINUTE)
    stored = storages["archive"].open(archive.key).read()
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (archive.size, archive.sha256)
    assert stored[4:8] == bytes(4), "no time in the header"
    Event.objects.filter(swarm_id=swarm.pk, kind="swarm.archived").delete()
    again = io.BytesIO()
    archive_document.write(Swarm.objects.get(pk=swarm.pk), again)
    assert again.getvalue() == stored


def test_memory_does_not_grow_with_the_tasks(db: None, acme: Tenant) -> None:
    swarm = make_swarm(acme, [StepOf("gather", items=4000)])
    text = "x" * 5_000
    Task.objects.filter(swarm=swarm).update(result=text)
    file = io.BytesIO()
    tracemalloc.start()
    try:
        archive_document.write(swarm, file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(json.loads(gzip.decompress(file.getvalue()))["tasks"]) == 4000
    assert peak < 5_000_000, "of results alone there are 20 MB"


def test_a_document_takes_a_few_queries_a_hundred_tasks(db: None, acme: Tenant, django_assert_num_queries: Any) -> None:
    swarm = make_swarm(acme, [StepOf("gather", items=300)])
    with django_assert_num_queries(13):  # costs, agents, steps, ids; six of tasks; files; events, and again in vain
        archive_document.write(swarm, io.BytesIO())


# -- handing out and storing -------------------------------------------------------------------------------------------


def test_a_terminated_swarm_is_archived_once(own_database: str, acme: Tenant) -> None:
    swarm = terminated(acme)
    make_swarm(acme, [StepOf("gather")])
    assert archiving.hand_out(now=NOW) == 1
    assert OrmQ.objects.get().task["func"] == "apps.execution.tasks.archive_swarm"
    assert archiving.hand_out(now=NOW + MINUTE / 2) == 0, "it is being written"
    archive = Archive.objects.get()
    assert (archive.swarm, archive.tenant, archive.reason, archive.tries) == (swarm, acme, "terminated", 1)
    assert archiving.store(archive.pk)
    assert not archiving.store(archive.pk)
    assert archiving.hand_out(now=NOW + 60 * MINUTE) == 0
    archive.refresh_from_db()
    before, swarm = swarm, Swarm.objects.get(pk=swarm.pk)
    assert (swarm.archived_at, swarm.version) == (archive.stored_at, before.version + 1)
    assert Event.objects.filter(kind="swarm.archived", swarm_id=swarm.pk).count() == 1
    entry = AuditEntry.objects.get(action="swarm:archive")
    assert (entry.resource_id, entry.tenant_id, entry.actor) == (str(swarm.pk), acme.pk, "archiver")
    assert entry.details == {"size": archive.size, "sha256": archive.sha256, "key": archive.key}


@pytest.mark.parametrize("status", sorted(set(SwarmStatus.values) - {"terminated"}))
def test_no_other_swarm_is(db: None, acme: Tenant, status: str) -> None:
    swarm = make_swarm(acme, [StepOf("gather")], running=False)
    Swarm.objects.filter(pk=swarm.pk).update(status=status, finished_at=NOW)
    assert archiving.hand_out(now=NOW + MINUTE) == 0
    assert not Archive.objects.exists()


def test_a_swarm_waits_until_its_calls_are_paid_for(db: None, acme: Tenant) -> None:
    swarm = terminated(acme)
    call = Reservation.objects.create(
        tenant_id=acme.pk, swarm_id=swarm.pk, model="m", amount=1, period_ids=[], expires_at=NOW + MINUTE
    )
    assert archiving.hand_out(now=NOW) == 0
    call.delete()
    assert archiving.hand_out(now=NOW) == 1


def test_what_cannot_be_stored_is_tried_again_and_says_why(
    own_database: str, acme: Tenant, settings: Any, archive_in_files: Path
) -> None:
    swarm = terminated(acme)
    blocked = archive_in_files / "blocked"
    blocked.write_text("a file where a folder should be")
    settings.STORAGES = files_in(blocked)
    archiving.hand_out(now=NOW)
    archive = Archive.objects.get()
    with pytest.raises(OSError, match="blocked"):
        archiving.store(archive.pk)
    archive.refresh_from_db()
    assert archive.error.startswith("NotADirectoryError: ")
    assert not archive.is_stored
    assert Swarm.objects.get(pk=swarm.pk).archived_at is None
    assert not Event.objects.filter(kind="swarm.archived").exists()
    # It is found by the watchdog, and handed out again after longer and longer waits, for ever.
    [told] = wholeness.terminated_and_not_archived(NOW + 16 * MINUTE)
    assert str(swarm.pk) in told
    assert "after 1 tries: NotADirectoryError" in told
    due, waits = NOW, []
    for _ in range(9):
        before, due = due, Archive.objects.get().due_at
        waits.append((due - before) // MINUTE)
        assert archiving.hand_out(now=due - MINUTE / 60) == 0
        assert archiving.hand_out(now=due) == 1
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    blocked.unlink()
    assert archiving.store(archive.pk)
    archive.refresh_from_db()
    assert (archive.error, archive.tries) == ("", 10)
    assert document(archive)["swarm"]["id"] == str(swarm.pk)
    assert wholeness.terminated_and_not_archived(NOW + 60 * MINUTE) == []


def test_a_swarm_that_no_worker_came_to_is_told_of(db: None, acme: Tenant) -> None:
    swarm = terminated(acme)
    assert wholeness.terminated_and_not_archived(NOW + 14 * MINUTE) == []
    [told] = wholeness.terminated_and_not_archived(NOW + 16 * MINUTE)
    assert str(swarm.pk) in told
    assert "manage.py work --cluster ops" in told


def test_an_archive_that_is_being_written_is_not_written_twice(own_database: str, acme: Tenant) -> None:
    terminated(acme)
    archiving.hand_out(now=NOW)
    archive = Archive.objects.get()
    other = connection.copy()
    try:
        with other.cursor() as cursor, transaction.atomic():
            cursor.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [archiving.LOCK, str(archive.pk)])
        assert not archiving.store(archive.pk)
        assert archiving.hand_out(now=NOW + 5 * MINUTE) == 0
    finally:
        other.close()
    assert archiving.hand_out(now=NOW + 5 * MINUTE) == 1
    assert archiving.store(archive.pk)


def test_what_an_earlier_try_left_is_removed(own_database: str, acme: Tenant, archive_in_files: Path) -> None:
    swarm = terminated(acme)
    folder = archive_in_files / str(acme.pk) / str(swarm.pk)
    folder.mkdir(parents=True)
    (folder / "0123.json.gz").write_bytes(b"what it was like then")
    archive = archived(swarm)
    assert [path.name for path in folder.iterdir()] == [f"{archive.sha256}.json.gz"]


def test_a_mass_of_terminated_swarms_is_handed_out_in_batches_by_few_queries(
    db: None, acme: Tenant, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    for _ in range(5):
        terminated(acme)
    monkeypatch.setattr(archiving, "BATCH", 2)
    with django_assert_max_num_queries(9):  # two of them enqueue
        assert archiving.hand_out(now=NOW) == 2
    assert [archiving.hand_out(now=NOW) for _ in range(3)] == [2, 1, 0]
    assert OrmQ.objects.count() == Archive.objects.count() == 5


def test_bytes_by_tenant(db: None, acme: Tenant, rival: Tenant, django_assert_num_queries: Any) -> None:  # C11
    for tenant, size in ((acme, 100), (acme, 23), (rival, 7), (rival, None)):
        stored = {} if size is None else {"size": size, "key": "k", "sha256": "0" * 64, "stored_at": NOW}
        Archive.objects.create(swarm=terminated(tenant), tenant=tenant, **stored)
    with django_assert_num_queries(1):
        assert Archive.objects.bytes_by_tenant() == {acme.pk: 123, rival.pk: 7}


def test_a_late_correction_does_not_change_what_is_stored(own_database: str, acme: Tenant) -> None:
    swarm = terminated(acme)
    archive = archived(swarm)
    LedgerEntry.objects.create(tenant_id=acme.pk, swarm_id=swarm.pk, kind="adjustment", amount=5)
    assert archiving.hand_out(now=NOW + 60 * MINUTE) == 0
    assert document(archive)["cost"]["total_usd"] == "0.00"


def test_a_run_that_ends_by_its_last_call_is_archived_too(own_database: str, acme: Tenant, owner: User) -> None:
    desk.models_for_sale()
    desk.platform_is_up(NOW)
    swarm = desk.started(desk.spec("reading"), acme, owner, NOW)
    [running] = desk.take(1, NOW)
    lifecycle.terminate(swarm, by=principal_of(owner), reason=REASON, now=NOW)
    assert archiving.hand_out(now=NOW) == 0, "it is stopping"
    outcome = progress.TaskOutcome(running.task_id, running.token, TaskStatus.CANCELLED, failure_code="cancelled")
    with transaction.atomic():
        progress.lock_swarms([swarm.pk])
        progress.record([outcome], now=NOW)
    assert document(archived(swarm))["swarm"]["status"] == "terminated"
