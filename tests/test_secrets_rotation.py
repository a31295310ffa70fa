"""A key is rotated twice while fifty calls a second go through real runner processes; another class never has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.test import Client

from apps.costs.models import LedgerEntry
from apps.events.models import Event
from apps.execution.models import Attempt
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant, User
from tests.rotation import (
    GRACE_S,
    LATENCY_MS,
    NAME,
    OTHER,
    key,
    load,
    memory_has,
    prepare,
    rotate,
    tables_with,
    usable,
    wait_for_calls,
    workers,
)
from tests.running import simulator, wait_until
from tests.swarms import simulated_provider
from tests.vault_server import vault_server

pytestmark = [pytest.mark.processes, pytest.mark.timeout(170)]
SECONDS = 10
REPLICAS = 25
"""With calls of 200 ms, at most 125 a second: the load lasts for four seconds at least, however quick the machine."""


def test_keys_are_rotated_under_load_and_no_call_fails(
    own_database: str, acme: Tenant, platform_admin: User, tmp_path: Path
) -> None:  # P8
    with (
        vault_server() as vault,
        simulator("--api-key", key(0), latency_ms=LATENCY_MS) as at,
    ):
        simulated_provider(at.port)
        prepare(vault, at)
        with (
            workers("agents", 2, vault, "secret/desk/", tmp_path) as agents,
            workers("agents-eu", 1, vault, f"secret/desk/{OTHER}", tmp_path) as europe,
        ):
            wait_until(lambda: len(agents.runners()) == 2 and europe.runners(), timeout_s=60, what="keys in runners")
            assert usable("agents")
            swarm = load(acme, SECONDS, replicas=REPLICAS)
            wait_for_calls(swarm, swarm.tasks_total // 10)

            # Revoked after the grace, the old key is not used by anybody any more: no call is refused even once.
            first = rotate(1, vault, at, agents)
            assert first.all_on_new_s < 10
            assert first.revoked_s >= first.all_on_new_s + GRACE_S
            assert Swarm.objects.get(pk=swarm.pk).tasks_succeeded < swarm.tasks_total  # so the load went on
            wait_for_calls(swarm, swarm.tasks_total * 3 // 4)
            assert at.stats()["statuses"].keys() == {"200"}

            # Revoked the moment every process has the new one, it may be on its way with a call.
            rotation = rotate(2, vault, at, agents, at_once=True)
            assert rotation.all_on_new_s < 10
            wait_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, timeout_s=60, what="the end of the swarm")

            # Nobody of another class has the key, in memory or at all.
            runner, other = rotation.runners[0], europe.runners()[0]
            if os.access(f"/proc/{other}/mem", os.R_OK):
                assert memory_has(runner, key(2).encode())
                assert not any(memory_has(other, key(number).encode()) for number in range(3))
            assert vault.read_by[europe.token] == {f"secret/desk/{OTHER}"}

        swarm.refresh_from_db()
        assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", swarm.tasks_total)
        assert Attempt.objects.filter(task__swarm=swarm).count() == swarm.tasks_total  # each at its first try
        assert LedgerEntry.objects.filter(swarm_id=swarm.pk).count() == swarm.tasks_total
        stats = at.stats()
        # A request that was on its way with the old key when it was revoked went out again with the new one.
        assert stats["statuses"].pop("200") == swarm.tasks_total
        assert stats["statuses"].keys() <= {"401"}
        taken = sorted(tally["taken"] for tally in stats["keys"].values())
        assert len(taken) == 3
        assert min(taken) > 0
    assert Event.objects.filter(kind="secrets.rotated", data__name=NAME).count() == 2

    # And it is written nowhere.
    secret = "sk-house-|sk-europe-|hvs\\."
    assert tables_with(secret) == []
    for log in (agents.log, europe.log):
        text = log.read_text()
        assert "secret_loaded" in text
        assert not any(part in text for part in ("sk-house-", "sk-europe-", "hvs."))
    client = Client()
    client.force_login(platform_admin)
    for page in ("providers/provider/", "providers/secretstate/", "audit/auditentry/", "events/event/"):
        answer = client.get(f"/admin/{page}")
        assert answer.status_code == 200
        assert not any(part in answer.content.decode() for part in ("sk-house-", "sk-europe-", "hvs."))
