"""A forked process is what Python started with the same arguments would be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.forks import Forked
from tests.processes import ROOT

TOLD = """
import os, sys, threading
print(sys.argv, sorted(os.environ.items()), os.getcwd(), os.getsid(0) == os.getpid())
print(__name__, [n for n in sys.modules if n.startswith(("apps", "portal.settings"))], threading.active_count())
print(sorted(os.listdir("/proc/self/fd"))[:4] if os.path.exists("/proc/self/fd") else "")
sys.stderr.write(sys.stdin.readline())
sys.exit(3)
"""


@pytest.mark.parametrize("session", [False, True])
def test_it_has_the_arguments_environment_and_streams_it_was_given(session: bool) -> None:
    command, environment = ("-c", TOLD, "one", "two"), {"PATH": os.environ["PATH"], "LC_CTYPE": "C.UTF-8"}
    forked = Forked(
        *command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=session,
    )
    assert forked.stdin is not None
    forked.stdin.write("read this\n")
    out, errors = forked.communicate(30)
    anew = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        input="read this\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=session,
    )
    assert (forked.returncode, out, errors) == (anew.returncode, anew.stdout, anew.stderr)
    assert (anew.returncode, anew.stderr) == (3, "read this\n")


def test_it_ends_by_the_signal_it_is_sent() -> None:
    with Forked("-c", "import time; print('up', flush=True); time.sleep(60)", stdout=subprocess.PIPE) as forked:
        assert forked.stdout is not None
        assert forked.stdout.readline() == "up\n"
        assert forked.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            forked.wait(0)
        forked.kill()
    assert forked.returncode == -signal.SIGKILL


def test_an_exception_is_told_and_its_exit_code_is_1() -> None:
    forked = Forked("-c", "raise ValueError('so')", stderr=subprocess.PIPE)
    assert "ValueError: so" in forked.communicate(30)[1]
    assert forked.returncode == 1
