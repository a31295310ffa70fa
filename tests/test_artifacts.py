"""Files that agents made: what is kept of them, who sees them, and how their bytes are read."""  # E8

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import IntegrityError, transaction

from apps.execution.errors import ArtifactUnreadable
from apps.execution.models import Artifact
from apps.execution.models.artifact import clean_media_type, clean_name
from apps.swarms.models import Swarm, Task
from apps.tenants.access import principal_of
from apps.tenants.models import Tenant, User
from tests.archives import files_in
from tests.artifacts import make_artifact
from tests.swarms import StepOf, make_swarm

LARGE = bytes(range(256)) * 8_000


@pytest.fixture(autouse=True)
def objects_in_files(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGES = files_in(tmp_path)
    return tmp_path / "artifacts"


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(acme, [StepOf("write", items=2)])


@pytest.fixture
def task(swarm: Swarm) -> Task:
    return Task.objects.filter(swarm=swarm).first()  # type: ignore[return-value]


# -- names and media types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["report.md", "data/2026/rows.csv", "a..b", ".hidden", "Übersicht März.txt", "x" * 255]
)
def test_a_name_that_can_be_kept(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "needs a name"),
        ("  ", "needs a name"),
        ("x" * 256, "at most 255"),
        ("/etc/passwd", "does not start with /"),
        ("../secret", "none that is . or .."),
        ("a/../b", "none that is . or .."),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("./a", "none that is ."),
        ("a\\b", "backslash"),
        ("a\nb", "control characters"),
        ("a\x00b", "control characters"),
        ("a\x7f", "control characters"),
        ("gpj.\u202eexe", "control characters"),
        ("\ud800", "control characters"),
    ],
)
def test_a_name_that_cannot(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        clean_name(name)


def test_one_name_written_in_two_ways_is_one_name() -> None:
    assert clean_name("Ma\u0308rz") == "M\u00e4rz"


def test_a_media_type_is_kept_without_parameters() -> None:
    assert clean_media_type(" Text/CSV; charset=utf-8") == "text/csv"
    for wrong in ("", "text", "text/", "a b/c", "text/html\r\nX: y", "x/" + "y" * 126):
        with pytest.raises(ValueError, match="looks like"):
            clean_media_type(wrong)


# -- the row -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": None},
        {"key": "somewhere"},
        {"size": -1, "content": None, "key": "somewhere"},
        {"size": 4},
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"name": ""},
        {"name": "/a"},
        {"name": "a/../b"},
        {"name": ".."},
        {"name": "a\nb"},
        {"name": "a\\b"},
        {"name": "taken"},
    ],
    ids=str,
)
def test_the_database_refuses_what_is_no_artifact(task: Task, wrong: dict[str, Any]) -> None:
    make_artifact(task, "taken")
    right = {"swarm": task.swarm, "tenant_id": task.swarm.tenant_id, "task": task, "media_type": "text/plain"}
    right |= {"name": "right", "size": 3, "sha256": "0" * 64, "content": b"abc"}
    with pytest.raises(IntegrityError), transaction.atomic():
        Artifact.objects.create(**{**right, **wrong})
    Artifact.objects.create(**right)


def test_names_are_unique_in_a_task_and_in_a_swarm_beside_its_tasks(swarm: Swarm) -> None:
    one, other = Task.objects.filter(swarm=swarm)
    for of in (one, other, swarm):
        make_artifact(of, "same")
    with pytest.raises(IntegrityError), transaction.atomic():
        make_artifact(swarm, "same")


def test_a_form_says_what_is_wrong_with_a_name(task: Task) -> None:
    made = make_artifact(task)
    made.name, made.media_type = "../x", "text"
    with pytest.raises(ValidationError) as error:
        made.full_clean()
    assert set(error.value.message_dict) == {"name", "media_type"}


def test_lists_never_load_the_bytes(task: Task, django_assert_num_queries: Any) -> None:
    make_artifact(task)
    with django_assert_num_queries(1):
        [made] = Artifact.objects.filter(swarm=task.swarm)
    assert "content" in made.get_deferred_fields()
    [made] = task.artifacts.all()
    assert "content" in made.get_deferred_fields()


def test_only_who_may_see_the_swarm_sees_its_files(
    task: Task, viewer: User, outsider: User, finance: User, platform_admin: User
) -> None:
    made = make_artifact(task)
    for user, seen in ((viewer, [made]), (platform_admin, [made]), (outsider, []), (finance, [])):
        assert list(Artifact.objects.visible_to(principal_of(user))) == seen, user


def test_bytes_by_tenant(task: Task, rival: Tenant, acme: Tenant, django_assert_num_queries: Any) -> None:  # C11
    make_artifact(task, "small", b"abc")
    make_artifact(task, "large", LARGE, stored=True)
    make_artifact(make_swarm(rival, [StepOf("write")]), "theirs", b"12345")
    with django_assert_num_queries(1):
        assert Artifact.objects.bytes_by_tenant() == {acme.pk: 3 + len(LARGE), rival.pk: 5}


# -- its bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"abc", LARGE], ids=len)
@pytest.mark.parametrize("stored", [False, True])
def test_bytes_are_read_wherever_they_lie(
    task: Task, data: bytes, stored: bool, django_assert_num_queries: Any
) -> None:
    made = Artifact.objects.get(pk=make_artifact(task, "file", data, stored=stored).pk)
    with django_assert_num_queries(0 if stored else 1), made.open() as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == data
    with made.open() as file:
        assert file.read() == data


def test_a_missing_object_is_one_clear_error(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    made = make_artifact(task, "plan.txt", LARGE, stored=True)
    storages["artifacts"].delete(made.key)
    with pytest.raises(ArtifactUnreadable, match=r"plan\.txt cannot be read: its object is not in storage any more\."):
        made.open()


@pytest.mark.parametrize(
    ("lies", "why"),
    [
        (LARGE[:-1], "1 of its 2,048,000 bytes are missing"),
        (LARGE + b"x", "not what was saved"),
        (LARGE[:-1] + b"x", "not what was saved"),
        (b"", "bytes are missing"),
    ],
    ids=["short", "long", "changed", "empty"],
)
def test_a_changed_object_is_noticed_before_all_of_it_is_handed_out(
    task: Task, objects_in_files: Path, lies: bytes, why: str
) -> None:
    made = make_artifact(task, "plan.txt", LARGE, stored=True)
    (objects_in_files / made.key).write_bytes(lies)
    read: list[bytes] = []
    with made.open() as file, pytest.raises(ArtifactUnreadable, match=why):
        read.extend(iter(lambda: file.read(10_000), b""))
    assert len(b"".join(read)) < len(LARGE)


def test_changed_bytes_in_the_database_are_noticed(task: Task) -> None:
    made = make_artifact(task, "plan.txt", b"abc")
    Artifact.objects.filter(pk=made.pk).update(content=b"abd")
    with pytest.raises(ArtifactUnreadable, match="not those that were saved"):
        Artifact.objects.get(pk=made.pk).open()


def test_what_is_kept_in_memory_is_a_piece_of_it(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_artifact(task, "plan.txt", LARGE, stored=True)
    asked: list[int] = []
    opened = io.BytesIO(LARGE)

    class Noting:
        def read(self, size: int) -> bytes:
            asked.append(size)
            return opened.read(size)

        close = opened.close

    monkeypatch.setattr(storages["artifacts"], "open", lambda name: Noting())
    with made.open() as file:
        assert file.read(10) == LARGE[:10]
    assert asked == [256 * 1024]
    assert opened.closed


def test_stored_bytes_are_saved_as_they_are(task: Task, objects_in_files: Path) -> None:
    made = make_artifact(task, "rows.csv", b"a,b\r\n", stored=True)
    assert (objects_in_files / made.key).read_bytes() == b"a,b\r\n"
    storages["artifacts"].save(made.key, ContentFile(b"x"))
    assert (objects_in_files / made.key).read_bytes() == b"x"
