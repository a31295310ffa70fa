"""Several processes run as one: one log, restarts with patience, and one end for all."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.processes import told_when_parent_ends

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95)


class CrewFailed(Exception):
    """A process cannot be kept running. Its text is one line with the reason it gave."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the crew's
    ends_last: bool = False  # others need it until they have ended


@dataclass(frozen=True, slots=True)
class Patience:
    """When to start again what ended, and when to give up. Seconds."""

    first_s: float = 0.5
    factor: float = 2.0
    longest_s: float = 15.0
    steady_s: float = 20.0  # what ran this long had started well
    tries: int = 3

    def wait_s(self, failures: int) -> float | None:
        """How long to wait after so many failed starts in a row; None: give up."""
        if failures >= self.tries:
            return None
        return float(min(self.first_s * self.factor ** max(failures - 1, 0), self.longest_s))


@dataclass(slots=True)
class _Member:
    duty: Duty
    colour: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    failures: int = 0
    pending: bytes = b""
    last_lines: list[str] = field(default_factory=list)


class Crew:
    """Runs processes until it is told to end, or one of them cannot be kept running.

    ``output`` is a text stream, Django's wrapper of one too.
    """

    def __init__(
        self, output: Any, environment: Mapping[str, str], *, patience: Patience | None = None, end_s: float = 8.0
    ) -> None:
        self.output = output
        self._environment = dict(environment)
        self._patience = patience or Patience()
        self._end_s = end_s
        self._members: list[_Member] = []
        self._selector = selectors.DefaultSelector()
        self._width = 12
        self._coloured = output.isatty() and not os.environ.get("NO_COLOR")

    def add(self, duties: Iterable[Duty]) -> None:
        """Starts more processes."""
        for duty in duties:
            member = _Member(duty, _COLOURS[len(self._members) % len(_COLOURS)])
            self._members.append(member)
            self._width = max(self._width, len(duty.name))
            self._start(member)

    def run(self, step: Callable[[], float | None], ended: Callable[[], bool]) -> None:
        """Copies logs and restarts until ``ended()``; ``step()`` is called between, and says in how many seconds again.

        Raises CrewFailed. Always ends with ``end()``, which the caller must call.
        """
        next_step: float | None = 0.0
        while not ended():
            now = time.monotonic()
            if next_step is not None and now >= next_step:
                pause = step()
                next_step = None if pause is None else time.monotonic() + pause
            for member in self._members:
                self._tend(member)
            self._copy(0.1)

    def end(self, hastened: Callable[[], bool] = lambda: False) -> None:
        """Ends all processes: first those that need others, then the others; those that do not heed are killed."""
        for last in (False, True):
            group = [member for member in self._members if member.duty.ends_last is last]
            self._signal(group, signal.SIGTERM)
            began, told_twice = time.monotonic(), False
            while any(self._runs(member) for member in group):
                waited = time.monotonic() - began
                if not told_twice and (waited > self._end_s or hastened()):
                    told_twice = True
                    self._signal(group, signal.SIGTERM)  # a worker takes the second one as: do not wait
                if waited > self._end_s + 4:
                    self._signal(group, signal.SIGKILL)
                self._copy(0.05)
        self._copy(0)
        for member in self._members:
            self._close(member)

    def say(self, name: str, line: str) -> None:
        """Writes a line of the log under a name."""
        self._write(name, 1, line)

    # -- one process -------------------------------------------------------------------------------------------------

    def _start(self, member: _Member) -> None:
        member.process = subprocess.Popen(
            member.duty.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, **member.duty.environment},
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends them in order
            preexec_fn=told_when_parent_ends(),
        )
        member.started = time.monotonic()
        assert member.process.stdout is not None
        os.set_blocking(member.process.stdout.fileno(), False)
        self._selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def _tend(self, member: _Member) -> None:
        now = time.monotonic()
        if member.process is None:
            if now >= member.start_at:
                self._start(member)
            return
        code = member.process.poll()
        if code is None:
            if member.failures and now - member.started > self._patience.steady_s:
                member.failures = 0
            return
        self._read(member)
        self._close(member)
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        if now - member.started < self._patience.steady_s:
            member.failures += 1
        else:
            member.failures = 1
        wait_s = self._patience.wait_s(member.failures)
        if wait_s is None:
            reason = member.last_lines[-1] if member.last_lines else how
            raise CrewFailed(f"{member.duty.name} ended {member.failures} times in a row ({how}): {reason}")
        member.process, member.start_at = None, now + wait_s
        self._write(member.duty.name, member.colour, f"ended ({how}); starting again in {wait_s:g} s")

    def _runs(self, member: _Member) -> bool:
        return member.process is not None and member.process.poll() is None

    def _signal(self, members: Iterable[_Member], number: int) -> None:
        for member in members:
            if member.process is not None and self._runs(member):
                with contextlib.suppress(ProcessLookupError):
                    member.process.send_signal(number)

    # -- the log -----------------------------------------------------------------------------------------------------

    def _copy(self, timeout_s: float) -> None:
        if not self._selector.get_map():
            select.select([], [], [], timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)

    def _read(self, member: _Member) -> None:
        if member.process is None or member.process.stdout is None or member.process.stdout.closed:
            return
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(member.process.stdout.fileno(), 65536)
                if not data:
                    # All ends of the pipe are closed; whether the process ended is seen elsewhere.
                    self._unregister(member)
                    break
                *lines, member.pending = (member.pending + data).split(b"\n")
                for line in lines:
                    self._line(member, line)
                if len(member.pending) > 65536:
                    self._line(member, member.pending)
                    member.pending = b""

    def _line(self, member: _Member, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip()
        if line:
            member.last_lines = [*member.last_lines[-4:], line]
            self._write(member.duty.name, member.colour, line)

    def _write(self, name: str, colour: int, line: str) -> None:
        label = f"{name:<{self._width}} │ "
        with contextlib.suppress(OSError):  # nobody reads any more: ending well matters more than the log
            self.output.write((f"\033[{colour}m{label}\033[0m" if self._coloured else label) + line + "\n")
            self.output.flush()

    def _unregister(self, member: _Member) -> None:
        if member.process is not None and member.process.stdout is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(member.process.stdout)

    def _close(self, member: _Member) -> None:
        self._unregister(member)
        if member.pending:
            self._line(member, member.pending)
            member.pending = b""
        if member.process is not None and member.process.stdout is not None:
            member.process.stdout.close()
