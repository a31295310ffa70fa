"""``manage.py submit_swarm``: submitting from a file or a pipe, and watching a run to its end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from apps.audit.models import AuditEntry
from apps.swarms.actions import lifecycle
from apps.swarms.management.commands import submit_swarm
from apps.swarms.management.commands.submit_swarm import Command
from apps.swarms.models import Swarm, Task, TaskStatus
from apps.swarms.status import summaries
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from tests.specs import BRIEF, NOW, simulated
from tests.swarms import start
from tests.test_status import finish, lease

ROOT = Path(__file__).resolve().parents[1]
BY = principal_of_command("test")
Step = Callable[[], None]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    path = tmp_path / "brief.yaml"
    path.write_text(BRIEF)
    return str(path)


@pytest.fixture
def demo(acme: Tenant) -> Tenant:
    simulated()
    return acme


class Run:
    """One call of the command; what it wrote, and the code it ended with."""

    def __init__(self, *arguments: str, steps: tuple[Step, ...] = (), terminal: bool = False, **options: Any) -> None:
        self.out = Terminal() if terminal else io.StringIO()
        self.err = Terminal() if terminal else io.StringIO()
        self.code = 0
        self._steps = list(steps)
        self._seconds = 0.0
        command = Command(stdout=self.out, stderr=self.err, pause=self._next, clock=self._clock, no_color=True)
        try:
            call_command(command, *arguments, **options)
        except SystemExit as end:
            self.code = int(end.code or 0)
        except CommandError as error:
            self.code = error.returncode
            self.err.write(str(error))

    def _next(self) -> None:
        """The world moves on by one step while the command pauses."""
        self._seconds += 1
        self._steps.pop(0)()

    def _clock(self) -> float:
        return self._seconds

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def complaints(self) -> list[str]:
        return self.err.getvalue().splitlines()


def begin() -> None:
    start(Swarm.objects.get())


def do_one(status: TaskStatus = TaskStatus.SUCCEEDED, **outcome: Any) -> None:
    (task,) = lease(Swarm.objects.get())
    finish(task, status, after=2, **outcome)


# -- submitting


@pytest.mark.django_db
def test_it_submits_a_file_and_says_what_it_is(demo: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acme")
    swarm = Swarm.objects.get()
    assert run.code == 0
    assert run.lines == [f"Submitted market-brief for acme: 4 tasks. Its id is {swarm.pk}"]
    entry = AuditEntry.objects.get()
    assert (entry.actor_kind, entry.actor, entry.action) == ("command", "submit_swarm", "swarm:create")


@pytest.mark.django_db
def test_a_dash_reads_standard_input(demo: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + BRIEF.encode())))
    assert Run("-", "--tenant", "acme").code == 0
    assert Swarm.objects.get().name == "market-brief"


@pytest.mark.django_db
def test_with_json_standard_output_is_the_document_alone(demo: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acme", "--json")
    document = json.loads(run.out.getvalue())
    assert (document["name"], document["status"], document["tenant"]) == ("market-brief", "queued", "acme")
    assert document["budget"]["limit_usd"] == "2.50"
    assert run.complaints[0].startswith("Submitted market-brief")


# -- bad input


@pytest.mark.django_db
def test_every_error_of_a_spec_is_a_line_and_the_code_is_2(demo: Tenant, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BRIEF.replace("simulated:small", "simulated:giant").replace("needs: [gather]", "needs: [gathr]"))
    run = Run(str(path), "--tenant", "acme")
    assert run.code == 2
    assert run.lines == []
    model, needs, prompt, end = run.complaints
    assert model.startswith("agents.researcher.model: No price is known for the model")
    assert model.endswith("(line 9)")
    assert needs == "tasks[1].needs[0]: There is no task 'gathr'; did you mean 'gather'? (line 25)"
    assert prompt.startswith("tasks[1].prompt: It reads results.gather, but does not need that task")
    assert end == f"{path} has 3 errors; nothing was submitted."
    assert not Swarm.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"\xff\xfe", "is not UTF-8 text (byte 1)."),
        (b" " * 2_000_001, "is larger than 2 MB."),
        (b"", "The document is empty."),
        (b"swarm: [", "This is not valid YAML in line 2, column 1"),
    ],
)
def test_files_that_cannot_be_used_are_told_in_a_line(
    demo: Tenant, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "spec.yaml"
    if content is not None:
        path.write_bytes(content)
    run = Run(str(path), "--tenant", "acme")
    assert run.code == 2
    assert complaint in run.err.getvalue()


@pytest.mark.django_db
def test_a_folder_is_not_a_spec(demo: Tenant, tmp_path: Path) -> None:
    assert Run(str(tmp_path), "--tenant", "acme").complaints == [f"{tmp_path} cannot be read: Is a directory."]


@pytest.mark.django_db
def test_an_unknown_tenant_is_told_with_those_that_exist(demo: Tenant, rival: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acmee")
    assert (run.code, run.complaints) == (2, ["There is no tenant 'acmee'. Tenants: acme, rival."])


@pytest.mark.django_db
def test_a_tenant_that_is_not_active_is_refused(demo: Tenant, spec_file: str) -> None:
    Tenant.objects.update(is_active=False)
    run = Run(spec_file, "--tenant", "acme")
    assert (run.code, run.complaints) == (2, ["The tenant acme is not active: it can submit nothing new."])


# -- watching


@pytest.mark.django_db
def test_it_watches_until_the_swarm_succeeded(demo: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acme", "--wait", steps=(begin, do_one, do_one, do_one, do_one))
    assert run.code == 0
    assert run.lines[1:] == [
        "queued (0 of 4 tasks over, $0.00)",
        "running (0 of 4 tasks over, $0.00)",
        "succeeded (4 of 4 tasks over, $0.00)",
        "market-brief succeeded: 4 of 4 tasks done in 2.0 s for $0.00.",
    ]


@pytest.mark.django_db
def test_a_failed_swarm_ends_1_and_names_what_failed(demo: Tenant, spec_file: str) -> None:
    def fail() -> None:
        do_one(TaskStatus.FAILED, failure_code="provider_error", error="The provider answered 400.\nmore")

    run = Run(spec_file, "--tenant", "acme", "--wait", steps=(begin, do_one, do_one, fail))
    assert run.code == 1
    assert run.lines[-2:] == [
        "market-brief failed: 2 of 4 tasks done in 2.0 s for $0.00. 1 of 4 tasks failed.",
        "  gather[2]: provider_error: The provider answered 400.",
    ]


@pytest.mark.django_db
def test_a_terminated_swarm_ends_1_with_the_reason(demo: Tenant, spec_file: str) -> None:
    def terminate() -> None:
        lifecycle.terminate(Swarm.objects.get(), by=BY, reason="Wrong topic.", now=NOW)

    run = Run(spec_file, "--tenant", "acme", "--wait", steps=(begin, terminate))
    assert run.code == 1
    assert run.lines[-1] == "market-brief terminated: 0 of 4 tasks done in 0.0 s for $0.00. Wrong topic."


@pytest.mark.django_db
def test_what_waits_in_the_queue_says_why(demo: Tenant, spec_file: str) -> None:
    def wait() -> None:
        Swarm.objects.update(queue_position=2, queue_reason="The pool is full.")

    run = Run(spec_file, "--tenant", "acme", "--wait", steps=(wait, begin, *[do_one] * 4))
    assert "queued, place 2: The pool is full. (0 of 4 tasks over, $0.00)" in run.lines


@pytest.mark.django_db
def test_with_json_the_final_document_is_all_there_is_on_standard_output(demo: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acme", "--wait", "--json", steps=(begin, *[do_one] * 4))
    assert run.code == 0
    document = json.loads(run.out.getvalue())
    assert (document["status"], document["progress"]["percent"]) == ("succeeded", 100.0)
    assert "market-brief succeeded" in run.complaints[-1]


@pytest.mark.django_db
def test_a_terminal_gets_a_progress_bar(demo: Tenant, spec_file: str) -> None:
    run = Run(spec_file, "--tenant", "acme", "--wait", terminal=True, steps=(begin, *[do_one] * 4))
    assert run.code == 0
    assert "\x1b[" in run.out.getvalue()
    assert "4/4" in run.out.getvalue()
    assert "market-brief succeeded: 4 of 4 tasks done" in run.lines[-1]


@pytest.mark.django_db
@pytest.mark.parametrize("terminal", [True, False])
def test_interrupting_leaves_the_swarm_running_and_says_so(demo: Tenant, spec_file: str, terminal: bool) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = Run(spec_file, "--tenant", "acme", "--wait", terminal=terminal, steps=(begin, interrupt))
    assert run.code == 130
    assert "Not watching any more. market-brief goes on" in run.lines[-1]
    assert Swarm.objects.get().status == "running"


@pytest.mark.django_db
def test_a_database_that_is_away_for_a_moment_is_waited_for(
    demo: Tenant, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    looks = 0
    known = summaries

    def away_twice(swarms: list[Swarm]) -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks in (1, 2):
            raise OperationalError("server closed the connection unexpectedly")
        return known(swarms)

    monkeypatch.setattr(submit_swarm, "summaries", away_twice)
    monkeypatch.setattr(connection, "close", lambda: None)
    assert Run(spec_file, "--tenant", "acme", "--wait", steps=(begin, *[do_one] * 4)).code == 0


# -- the real thing


def _manage(url: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DATABASE_URL": url, "STANDALONE": "true"}
    command = [sys.executable, "manage.py", "submit_swarm", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.processes
def test_as_a_process_a_bad_spec_ends_2_without_a_traceback(own_database: str, demo: Tenant) -> None:
    run = _manage(own_database, "-", "--tenant", "acme", input="swarm: x\nagents: {}\n")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.splitlines() == [
        "agents: Must not be empty. (line 2)",
        "tasks: Is missing.",
        "submit_swarm: The spec has 2 errors; nothing was submitted.",
    ]


@pytest.mark.processes
def test_a_hint_wakes_the_watcher_long_before_it_would_look(
    own_database: str, demo: Tenant, spec_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_swarm, "POLL_S", 60.0)
    looked = threading.Event()
    known = summaries

    def looking(swarms: list[Swarm]) -> list[dict[str, Any]]:
        found = known(swarms)
        looked.set()
        return found

    monkeypatch.setattr(submit_swarm, "summaries", looking)

    def terminate() -> None:
        looked.wait(20)
        lifecycle.terminate(Swarm.objects.get(), by=BY, reason="Seen at once.")
        connection.close()

    other = threading.Thread(target=terminate)
    other.start()
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command(Command(stdout=out, stderr=io.StringIO()), spec_file, "--tenant", "acme", "--wait")
    other.join()
    assert ended.value.code == 1
    assert "Seen at once." in out.getvalue().splitlines()[-1]
    assert Task.objects.filter(status=TaskStatus.CANCELLED).count() == 4
