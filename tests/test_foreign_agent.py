"""A plain Python script on a framework of its own, and the pages about agents elsewhere, against a real web server."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from apps.audit.trail import Actor
from apps.costs.models import BudgetPeriod, ExternalEvent, ExternalReservation, LedgerEntry, Price, Reservation, run_id
from apps.tenants.actions import create_token
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.browser import ROOT, Daphne, db, web, web_of_module
from tests.costs import budget, verify_money_is_whole
from tests.running import simulator
from tests.test_docs import fences

__all__ = ["db", "web", "web_of_module"]

SCRIPT = ROOT / "docs" / "examples" / "foreign_agent.py"
PAGES = [
    ROOT / "docs" / "how-to" / f"{name}.md"
    for name in ("put-a-foreign-agent-under-a-budget", "record-costs-from-elsewhere")
]


@pytest.fixture
def token(acme: Tenant, developer: User) -> str:
    Price.objects.create(
        provider="simulated",
        model="small",
        input_per_mtok=150_000_000,
        output_per_mtok=600_000_000,
        effective_from=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )
    _, text = create_token(developer, acme, role="", life=dt.timedelta(days=1), by=Actor("system", "test"))
    return str(text)


def start(web: Daphne, token: str, provider: int, *arguments: str) -> subprocess.Popen[str]:
    """The script, with Python's standard library alone."""
    place = ["--desk", web.url, "--provider", f"http://127.0.0.1:{provider}/v1", "--tenant", "acme"]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), *place, *arguments],
        env={"PATH": os.environ["PATH"], "TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.processes
def test_a_foreign_agent_stops_where_its_budget_ends(web: Daphne, token: str, acme: Tenant) -> None:  # C9
    limit = NANO // 1000
    budget(acme, limit, "Each run", scope="swarm", period="run")
    budget(acme, 100 * NANO, "All of Acme")
    with simulator(latency_ms=5) as provider:
        # Two of one run, which share its budget, and one of another run, which ends well.
        pair = [start(web, token, provider.port, "--run", "crew-7", "--topics", "20") for _ in range(2)]
        other = start(web, token, provider.port, "--run", "crew-8", "--topics", "1")
        told = [(*process.communicate(timeout=60), process.returncode) for process in (*pair, other)]
        calls = provider.stats()["requests"]
    for out, errors, code in told[:2]:
        assert (errors, code) == ("", 3)
        assert re.search(r'^Stopped after \d+ of 20 topics\. Budget "Each run" has \$0\.\d+ left of', out, re.MULTILINE)
    assert told[2] == ("Done: topic 0\nFinished all 1 topics.\n", "", 0)
    entries = LedgerEntry.objects.filter(tenant_id=acme.pk, run="crew-7")
    assert 4 <= entries.count() < 40
    assert sum(entries.values_list("amount", flat=True)) <= limit
    assert not entries.filter(unsettled=True).exists()
    assert LedgerEntry.objects.filter(tenant_id=acme.pk).count() == calls
    assert ExternalReservation.objects.filter(tenant_id=acme.pk).count() == calls
    assert not Reservation.objects.filter(tenant_id=acme.pk).exists()
    spent = BudgetPeriod.objects.get(budget__name="Each run", key=str(run_id(acme.pk, "crew-7")))
    assert (spent.spent <= limit, spent.reserved, spent.overage) == (True, 0, 0)
    verify_money_is_whole()


@pytest.mark.processes
def test_a_provider_that_is_down_costs_nothing(web: Daphne, token: str, acme: Tenant) -> None:
    process = start(web, token, 9, "--run", "crew-9", "--topics", "1")
    out, errors = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 1)
    assert "refused" in errors, errors
    assert ExternalReservation.objects.filter(tenant_id=acme.pk).count() == 1
    assert not Reservation.objects.filter(tenant_id=acme.pk).exists()
    assert not LedgerEntry.objects.filter(tenant_id=acme.pk).exists()


@pytest.mark.processes
@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="needs bash and curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_scripts_of_the_pages_work_as_they_stand(
    page: Path, web: Daphne, token: str, operator: User, acme: Tenant
) -> None:
    connection.close()
    with simulator(latency_ms=5) as provider:
        script = "\n".join(fence.text for fence in fences(page) if fence.language == "bash")
        for written, here in {
            "http://127.0.0.1:8000": web.url,
            "http://127.0.0.1:9100": f"http://127.0.0.1:{provider.port}",
            " docs/examples/foreign_agent.py": f" {SCRIPT} --desk {web.url}",
            "$(.venv/bin/python": f"$({sys.executable}",
            "\n.venv/bin/python": f"\n{sys.executable}",
            "python3": sys.executable,
        }.items():
            script = script.replace(written, here)
        told = 'curl() { command curl "$@"; echo; }\n'
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", told + script], cwd=ROOT, capture_output=True, text=True, check=True
        )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if page == PAGES[0]:
        assert [answer["status"] for answer in answers] == ["settled", "held", "released"]
        assert "Finished all 3 topics." in done.stdout
    else:
        counts = [(answer["recorded"], answer["duplicates"], answer["failed"]) for answer in answers]
        assert counts == [(2, 0, 0), (0, 1, 1)]
        assert ExternalEvent.objects.filter(tenant_id=acme.pk).count() == 2
