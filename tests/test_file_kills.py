"""Saving files survives SIGKILL: a worker is killed at every line of it, and what it leaves is made whole."""  # E8 E4

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.events.models import Event
from apps.execution import leases
from apps.execution.artifacts import sweeping
from apps.execution.models import Artifact, Attempt, LooseObject
from apps.swarms.models import Swarm, Task
from apps.tenants.models import Tenant
from tests import desk, file_killer
from tests.archives import files_in
from tests.processes import ROOT
from tests.swarms import AgentOf, StepOf, make_swarm

pytestmark = pytest.mark.processes
TASKS = 100


def objects_in(folder: Path) -> set[str]:
    """The keys of the objects that are whole: a file that is being written has another name."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*/*") if not path.name.startswith(".")}


def test_a_worker_killed_at_any_line_leaves_nothing_half_kept(
    own_database: str, acme: Tenant, settings: Any, tmp_path: Path
) -> None:
    settings.STORAGES = files_in(tmp_path)
    now = timezone.now()
    swarm = make_swarm(acme, [StepOf("write", items=TASKS)], {"worker": AgentOf(TASKS)}, now=now)
    leased = {str(each.task_id): each for each in desk.take(TASKS, now, seconds=900)}
    environment = {**os.environ, "DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.file_killer"],
        cwd=ROOT,
        env=environment,
        input=pickle.dumps(list(leased.values())),
        capture_output=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["killed"] for each in told] == [True] * (len(told) - 1) + [False]
    assert len(told) > 40, "lines"

    # Either a task has its result and both of its files, or neither; and every object is named by a row.
    succeeded = set(Task.objects.filter(swarm=swarm, status="succeeded").values_list("pk", flat=True))
    kept = list(Artifact.objects.values_list("task_id", "name", "attempt_id"))
    both = {(pk, name) for pk in succeeded for name in ("small.txt", "large.bin")}
    assert {(task, name) for task, name, _ in kept} == both
    assert len(kept) == len(both)
    assert len(succeeded) < 5, "nearly all were killed before their commit"
    loose = set(LooseObject.objects.values_list("key", flat=True))
    folder = tmp_path / "artifacts"
    named = set(Artifact.objects.exclude(key="").values_list("key", flat=True))
    assert not loose & named
    assert objects_in(folder) <= loose | named
    assert len(objects_in(folder)) > 20, "many were killed after the object was whole"
    assert Event.objects.filter(kind="artifact.created").count() == len(kept)

    # Their leases end, others take the tasks, and save files of the same names.
    later = now + dt.timedelta(hours=1)
    assert leases.expire(now=later) == TASKS - len(succeeded)
    again = [each for each in desk.take(TASKS, later, seconds=900) if str(each.task_id) in {e["task"] for e in told}]
    for each in again[:: len(again) // 4]:
        file_killer.attempt(each)
        for file in Artifact.objects.filter(task=each.task_id):
            assert file.attempt_id == each.token
            with file.open() as opened:
                assert opened.read() == {"small.txt": file_killer.SMALL, "large.bin": file_killer.LARGE}[file.name]
        assert Artifact.objects.filter(task=each.task_id).count() == 2
    assert Attempt.objects.filter(task=again[0].task_id).count() == 2

    # What nobody can claim any more is swept, and nothing else.
    assert sweeping.sweep(now=later + dt.timedelta(hours=7)) == len(loose)
    named = set(Artifact.objects.exclude(key="").values_list("key", flat=True))
    assert objects_in(folder) == named == {path.relative_to(folder).as_posix() for path in folder.glob("*/*/*")}
    assert not LooseObject.objects.exists()
    assert Swarm.objects.get(pk=swarm.pk).tasks_succeeded * 2 == Artifact.objects.count()
