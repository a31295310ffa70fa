"""A crew of processes: one log, restarts with patience, one end."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from portal.crew import Crew, CrewFailed, Duty, Patience

pytestmark = pytest.mark.processes
SOON = Patience(first_s=0.05, factor=1.0, steady_s=30)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def crew(log: io.StringIO) -> Iterator[Crew]:
    made = Crew(log, {"PATH": "/usr/bin:/bin"}, patience=SOON, end_s=0.3)
    yield made
    made.end()


def python(program: str) -> list[str]:
    return [sys.executable, "-u", "-c", program]


def said(log: io.StringIO, text: str, seconds: float = 20) -> bool:
    """Whether the log holds the text, or time is up."""
    started = getattr(log, "started", None)
    if started is None:
        log.started = started = time.monotonic()  # type: ignore[attr-defined]
    assert time.monotonic() - started < seconds, log.getvalue()
    return text in log.getvalue()


_EARLIER = set[int]()


@pytest.fixture(autouse=True)
def _those_of_earlier_tests() -> None:
    """What the whole test run shares, such as its database and web server, is there before."""
    _EARLIER.clear()
    _EARLIER.update(child.pid for child in psutil.Process().children())


def children() -> list[psutil.Process]:
    """The living children of this process that this test has started."""
    found = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in found if child.pid not in _EARLIER]


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (9, 15.0), (10, None)])
def test_patience_grows_and_ends(failures: int, wait_s: float | None) -> None:
    assert Patience(tries=10).wait_s(failures) == wait_s


def test_each_line_carries_the_name_of_its_process(crew: Crew, log: io.StringIO) -> None:
    crew.add(
        [
            Duty("web", python("import time; print('serving'); time.sleep(60)")),
            Duty("orchestrator", python("import sys, time; print('leading', file=sys.stderr); time.sleep(60)")),
        ]
    )
    crew.run(lambda: None, lambda: said(log, "serving") and said(log, "leading"))
    assert sorted(log.getvalue().splitlines()) == ["orchestrator │ leading", "web          │ serving"]


def test_what_ends_is_started_again_and_said_so(crew: Crew, log: io.StringIO, tmp_path: object) -> None:
    program = (
        f"import pathlib, sys, time; mark = pathlib.Path(r'{tmp_path}') / 'mark'\n"
        "if mark.exists(): print('second life'); time.sleep(60)\n"
        "mark.touch(); sys.exit(3)"
    )
    crew.add([Duty("web", python(program))])
    crew.run(lambda: None, lambda: said(log, "second life"))
    assert "web          │ ended (exit 3); starting again in 0.05 s" in log.getvalue()


def test_what_cannot_start_thrice_ends_everything_with_its_reason(crew: Crew, log: io.StringIO) -> None:
    crew.add(
        [
            Duty("web", python("print('well'); import time; time.sleep(60)")),
            Duty("demo", python("import sys; sys.exit('no such table')")),
        ]
    )
    with pytest.raises(CrewFailed, match=r"^demo ended 3 times in a row \(exit 1\): no such table$"):
        crew.run(lambda: None, lambda: said(log, "never said"))
    assert len(children()) >= 1
    crew.end()
    assert children() == []


def test_what_others_need_ends_last_and_what_does_not_heed_is_killed(crew: Crew, log: io.StringIO) -> None:
    says = (
        "import signal, sys, time\n"
        "def end(*_): print('ends'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('on'); time.sleep(60)"
    )
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    crew.add(
        [Duty("simulator", python(says), ends_last=True), Duty("deaf", python(deaf)), Duty("agents", python(says))]
    )
    crew.run(lambda: None, lambda: log.getvalue().count("│ on") == 2 and said(log, "│ deaf"))
    crew.end()
    ends = [line for line in log.getvalue().splitlines() if "ends" in line]
    assert ends == ["agents       │ ends", "simulator    │ ends"]
    assert children() == []


def test_each_process_has_the_environment_of_the_crew_and_its_own(crew: Crew, log: io.StringIO) -> None:
    crew.add([Duty("web", python("import os, time; print(os.environ['MINE'], 'HOME' in os.environ)"), {"MINE": "1"})])
    with pytest.raises(CrewFailed):
        crew.run(lambda: None, lambda: said(log, "never said"))
    assert "web          │ 1 False" in log.getvalue()
