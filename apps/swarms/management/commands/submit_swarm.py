"""``manage.py submit_swarm``: submits a spec, and watches the run to its end if asked to."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, connection
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apps.swarms.actions.submit import CannotSubmit, submit
from apps.swarms.documents import MAX_BYTES
from apps.swarms.doubts import doubts_about
from apps.swarms.models import Swarm, SwarmStatus, Task, TaskStatus
from apps.swarms.specs import SpecInvalid
from apps.swarms.status import as_json, summaries, swarm_status
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from portal import commands
from portal.database.errors import DatabaseUnavailable
from portal.money import usd_label
from portal.notify import Channel, Listener

EXIT_FAILED = 1
POLL_S = 2.0
"""How long a look at the swarm may be put off when no hint arrives."""
LEAST_PAUSE_S = 0.1
PLAIN_LINE_S = 5.0
"""How often a line is written while the work goes on, where there is no terminal for a progress bar."""
DATABASE_PATIENCE_S = 60.0
"""How long the database may be away before watching is given up; the swarm does not depend on it."""
FAILURES_SHOWN = 5

Pause = Callable[[], None]


class Command(commands.Command):
    help = (
        "Submits the swarm that a spec describes (YAML or JSON; see docs/reference/swarm-spec.md). "
        "With --wait: ends 0 when it succeeded, 1 when it failed or was terminated. A spec with errors ends 2."
    )
    refusals: ClassVar[tuple[type[Exception], ...]] = (CannotSubmit,)

    def __init__(
        self,
        *args: Any,
        pause: Pause | None = None,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._pause = pause
        self._clock = clock

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="The spec; - reads it from standard input.")
        parser.add_argument("--tenant", required=True, metavar="SLUG", help="The tenant that it runs for.")
        parser.add_argument("--wait", action="store_true", help="Show its progress until it is over.")
        parser.add_argument(
            "--json",
            action="store_true",
            dest="as_json",
            help="Print only the status document of the swarm (the final one, with --wait) on standard output.",
        )

    def handle(self, *args: Any, file: str, tenant: str, wait: bool, as_json: bool, **options: Any) -> None:
        _log_to_stderr()
        source = _read(file)
        try:
            swarm = submit(source, tenant=_tenant(tenant), by=principal_of_command("submit_swarm"))
        except SpecInvalid as invalid:
            for error in invalid.errors:
                self.stderr.write(f"{error} (line {error.line})" if error.line and error.path else str(error))
            count = len(invalid.errors)
            name = "The spec" if file == "-" else file
            raise CommandError(f"{name} has {count} error{'s' * (count != 1)}; nothing was submitted.") from invalid
        # Django's wrapper ends every write with a line break, which a progress bar cannot have.
        people = cast("IO[str]", (self.stderr if as_json else self.stdout)._out)  # type: ignore[attr-defined]
        _say(people, f"Submitted {swarm.name} for {tenant}: {swarm.tasks_total} tasks. Its id is {swarm.pk}")
        for doubt in doubts_about(swarm):
            self.stderr.write(f"Warning: {doubt}")
        if wait:
            swarm = self._follow(swarm, people)
        if as_json:
            self.stdout.write(json.dumps(_document(swarm), indent=2))
        if wait and swarm.status != SwarmStatus.SUCCEEDED:
            raise SystemExit(EXIT_FAILED)

    def _follow(self, swarm: Swarm, people: IO[str]) -> Swarm:
        """Shows the swarm's progress until it is over; the swarm as it is then."""
        shown: _Bar | _Lines = _Bar(people) if people.isatty() else _Lines(people, self._clock)
        try:
            with shown, _Hints() if self._pause is None else _Given(self._pause) as hints:
                swarm = _watch(swarm, shown, hints, self._clock)
        except KeyboardInterrupt:
            _say(people, f"Not watching any more. {swarm.name} goes on: see it, or terminate it, in the console.")
            raise SystemExit(commands.EXIT_INTERRUPTED) from None
        for line in _ending(swarm):
            _say(people, line)
        return swarm


def _watch(swarm: Swarm, shown: _Bar | _Lines, pause: Pause, clock: Callable[[], float]) -> Swarm:
    away_since: float | None = None
    while True:
        try:
            swarm = Swarm.objects.select_related("tenant").get(pk=swarm.pk)
            shown.show(summaries([swarm])[0])
            away_since = None
            if swarm.is_over:
                return swarm
        except Swarm.DoesNotExist:
            raise CommandError("The swarm was deleted while it was watched.", returncode=EXIT_FAILED) from None
        except (OperationalError, InterfaceError, DatabaseUnavailable) as error:
            away_since = clock() if away_since is None else away_since
            if clock() - away_since > DATABASE_PATIENCE_S:
                message = f"The database is away; {swarm.name} goes on without being watched."
                raise CommandError(message, returncode=EXIT_FAILED) from error
            connection.close()
        pause()


def _document(swarm: Swarm) -> dict[str, Any]:
    return as_json(swarm_status(Swarm.objects.select_related("tenant").get(pk=swarm.pk)))


def _log_to_stderr() -> None:
    """Standard output belongs to what the command says: with --json it is parsed."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)


def _read(file: str) -> str:
    """The text of the spec. Raises CommandError for what cannot be read."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise CommandError(f"{file} is larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text (byte {error.start + 1}).") from error


def _tenant(slug: str) -> Tenant:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        known = ", ".join(Tenant.objects.order_by("slug").values_list("slug", flat=True)[:20])
        hint = f"Tenants: {known}." if known else "There are none yet; make one in the admin."
        raise CommandError(f"There is no tenant {slug!r}. {hint}")
    return tenant


def _say(stream: IO[str], line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _ending(swarm: Swarm) -> list[str]:
    """What became of it, for a person."""
    cost = summaries([swarm])[0]["cost"]
    took = ""
    if swarm.started_at and swarm.finished_at:
        took = f" in {(swarm.finished_at - swarm.started_at).total_seconds():.1f} s"
    done = f"{swarm.tasks_succeeded} of {swarm.tasks_total} tasks done{took} for {usd_label(cost['total'])}"
    reason = f" {swarm.status_reason}" if swarm.status_reason else ""
    lines = [f"{swarm.name} {swarm.status}: {done}.{reason}"]
    failed = Task.objects.named().filter(swarm=swarm, status=TaskStatus.FAILED)
    lines += [f"  {task.key}: {task.failure_code}: {_first_line(task.error)}" for task in failed[:FAILURES_SHOWN]]
    if swarm.tasks_failed > FAILURES_SHOWN:
        lines.append(f"  and {swarm.tasks_failed - FAILURES_SHOWN} more failed tasks")
    return lines


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:200]


def _situation(status: dict[str, Any]) -> str:
    """Its status, with the reason and the place in the queue while it waits."""
    reason = status["queue"]["reason"] if status["status"] == "queued" else status["status_reason"]
    place = f", place {status['queue']['position']}" if status["queue"]["position"] else ""
    return f"{status['status']}{place}: {reason}" if reason else f"{status['status']}{place}"


class _Bar:
    """A progress bar, for a terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks  {task.fields[more]}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, more="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: dict[str, Any]) -> None:
        progress = status["progress"]
        failed = f"{progress['failed']} failed  " if progress["failed"] else ""
        self._progress.update(
            self._task,
            description=_situation(status),
            total=progress["total"],
            completed=progress["total"] - progress["pending"] - progress["running"],
            more=f"{progress['running']} running  {failed}{usd_label(status['cost']['total'])}",
        )


class _Lines:
    """A line when the status changes, and now and then while tasks finish; for logs and pipes."""

    def __init__(self, stream: IO[str], clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._last = ""
        self._done = -1
        self._written_at = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, status: dict[str, Any]) -> None:
        situation, progress = _situation(status), status["progress"]
        done = progress["total"] - progress["pending"] - progress["running"]
        due = done != self._done and self._clock() - self._written_at >= PLAIN_LINE_S
        if situation != self._last or due:
            cost = usd_label(status["cost"]["total"])
            _say(self._stream, f"{situation} ({done} of {progress['total']} tasks over, {cost})")
            self._last, self._done, self._written_at = situation, done, self._clock()


class _Hints:
    """Pauses until the event log grows, or for ``POLL_S``: hints can be lost, the database is the truth."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._listener = Listener([Channel.EVENTS], lambda *_: self._woken.set(), self._woken.set)

    def __enter__(self) -> Pause:
        self._listener.start()
        return self._pause

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self._listener.join(2)

    def _pause(self) -> None:
        time.sleep(LEAST_PAUSE_S)
        self._woken.wait(POLL_S)
        self._woken.clear()


class _Given:
    """Hands out a pause that was given."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause

    def __enter__(self) -> Pause:
        return self._pause

    def __exit__(self, *_: object) -> None:
        return
