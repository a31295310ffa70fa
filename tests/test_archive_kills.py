"""Archiving survives SIGKILL: a process is killed at every line of it, and what it leaves is made whole."""  # O4, E4

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django_q.models import OrmQ

from apps.audit.models import AuditEntry
from apps.events.models import Event
from apps.execution import archiving
from apps.execution.models import Archive
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant
from tests.archives import files_in, terminated
from tests.forks import Forked
from tests.running import wait_until
from tests.swarms import NOW

pytestmark = pytest.mark.processes


def kills(what: str, ids: list[str], data_dir: Path) -> list[dict[str, Any]]:
    """Runs the killer to its end; what it told of each kill. The last one did all of it."""
    environment = {**os.environ, "DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    killer = Forked("-m", "tests.killer", what, *ids, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = killer.communicate(120)
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert killer.returncode == 0, errors[-2000:]
    assert told[-1]["killed"] is False
    return told[:-1]


def test_a_job_killed_at_any_line_loses_nothing_and_repeats_nothing(
    own_database: str, acme: Tenant, settings: Any, tmp_path: Path
) -> None:
    swarms = [terminated(acme) for _ in range(80)]
    for _ in range(2):
        archiving.hand_out(now=NOW)
    told = kills("store", [str(swarm.pk) for swarm in swarms], tmp_path)
    assert len(told) > 40, "lines"
    # Whatever is said to be stored is there: never is a swarm called archived without its document.
    assert all(each["left"]["archived"] == each["left"]["stored"] for each in told)
    assert all(each["left"]["whole"] for each in told if each["left"]["stored"])
    assert sum(each["left"]["stored"] for each in told) < 5, "nearly all were killed before their commit"
    settings.STORAGES = files_in(tmp_path / "archive")
    archives = {str(each.swarm_id): each for each in Archive.objects.stored().select_related("swarm")}
    assert set(archives) == {str(swarm.pk) for swarm in swarms[: len(told) + 1]}
    for swarm_id, archive in archives.items():
        [stored] = (tmp_path / "archive" / str(acme.pk) / swarm_id).glob("**/*")
        assert stored.name == f"{archive.sha256}.json.gz"
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == archive.sha256
        assert archive.swarm.archived_at == archive.stored_at
    for rows in (
        Event.objects.filter(kind="swarm.archived").values_list("swarm_id", flat=True),
        AuditEntry.objects.filter(action="swarm:archive").values_list("resource_id", flat=True),
    ):
        assert sorted(map(str, rows)) == sorted(archives), "once each"


def test_an_orchestrator_killed_while_it_hands_out_has_done_all_of_it_or_nothing(
    own_database: str, acme: Tenant, tmp_path: Path
) -> None:
    swarm = terminated(acme)
    told = kills("hand_out", [str(swarm.pk)] * 60, tmp_path)
    assert len(told) > 10, "lines"
    assert all(each["left"]["tries"] == each["left"]["jobs"] for each in told)
    assert Archive.objects.get().tries == OrmQ.objects.count() == len(told) + 1


def test_the_orchestrator_and_a_worker_archive_what_a_person_terminates(
    own_database: str, acme: Tenant, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    swarm = terminated(acme)
    processes = [
        Forked("manage.py", *command, stdout=subprocess.DEVNULL)
        for command in (["orchestrate"], ["work", "--cluster", "ops", "--workers", "1"])
    ]
    try:
        wait_until(lambda: Swarm.objects.get(pk=swarm.pk).archived_at, timeout_s=60, what="the archive")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    archive = Archive.objects.get()
    assert (tmp_path / "archive" / archive.key).stat().st_size == archive.size
