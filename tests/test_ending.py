"""Processes that are told to end, at whatever moment."""

from __future__ import annotations

import signal
import threading

import pytest

from portal.commands import EXIT_TERMINATED
from portal.processes import handled_beside
from tests.processes import run_python

# SIGTERM comes while the environment is read; ENDS_WITHIN_S may be shortened.
TOLD = """
import signal
import portal.commands as commands
commands.ENDS_WITHIN_S = 1
def told(name):
    {how}
    while True:
        signal.pause()
commands.refuse_bad_environment = told
commands.main(["manage.py", "shell"])
"""
IN_A_DESTRUCTOR = "type('Deaf', (), {'__del__': lambda _: signal.raise_signal(signal.SIGTERM)})()"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("signal.raise_signal(signal.SIGTERM)", EXIT_TERMINATED),
        (IN_A_DESTRUCTOR, -signal.SIGALRM),  # where Python ignores what is raised
    ],
)
def test_a_command_that_is_told_while_it_starts_ends(how: str, code: int) -> None:
    assert run_python("-c", TOLD.format(how=how)).returncode == code


def test_a_handler_sets_an_event_whose_lock_is_held_by_what_it_interrupts() -> None:
    event = threading.Event()
    before = signal.signal(signal.SIGUSR1, handled_beside(event.set))
    try:
        with event._cond:  # type: ignore[attr-defined]  # as in the middle of event.wait()
            signal.raise_signal(signal.SIGUSR1)
        assert event.wait(10)
    finally:
        signal.signal(signal.SIGUSR1, before)
