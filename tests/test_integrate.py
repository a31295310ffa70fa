"""The tour of an integrator: each command of the page, at a real web server, with a client made from its schema."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apps.audit.trail import Actor
from apps.swarms.models import Swarm
from apps.tenants.actions import create_token
from apps.tenants.models import Tenant, User
from tests.browser import ROOT, Daphne, db, web, web_of_module
from tests.specs import simulated
from tests.test_docs import fences

__all__ = ["db", "web", "web_of_module"]

PAGE = ROOT / "docs" / "how-to" / "integrate.md"


@pytest.mark.processes
def test_the_tour_of_an_integrator(web: Daphne, acme: Tenant, operator: User, tmp_path: Path) -> None:
    simulated()
    _, token = create_token(
        operator,
        acme,
        permissions=["swarm:create", "swarm:read"],
        life=dt.timedelta(days=1),
        by=Actor("system", "test"),
    )
    making, *commands = [fence.text for fence in fences(PAGE) if fence.language == "bash"]
    assert "create_api_token" in making  # run by the tests of that command, against their own database
    (program,) = [fence.text for fence in fences(PAGE) if fence.language == "python"]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOKEN": token,
        "DESK": web.url,
        "HOME": str(tmp_path),
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    told = run("bash", "-euc", "\n".join(commands))
    assert told.split("\n")[:2] == ["201", "304"]
    assert run(sys.executable, "-c", program) == "hello queued 0.00 USD\n"
    assert Swarm.objects.filter(name="hello").count() == 2
