"""`manage.py work`, with real processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from django.utils import timezone
from django_q.models import OrmQ

from apps.execution.models import Runner
from apps.execution.supervisor import Facts, Limits, missing_runners, stuck
from portal.queue import enqueue
from tests.forks import RUNNER, Forked
from tests.processes import ROOT, wait_until

WELL = Facts(processes=4, processes_wanted=4, missing_for_s=0, waiting_s=0, idle_for_s=0)
LIMITS = Limits(wait_s=10, missing_s=10)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (WELL, ""),
        # A long job keeps the only worker busy: others wait, and nothing is wrong.
        (Facts(4, 4, 0, waiting_s=600, idle_for_s=0), ""),
        # Nothing to do.
        (Facts(4, 4, 0, waiting_s=0, idle_for_s=600), ""),
        # A worker went idle just now and will take it.
        (Facts(4, 4, 0, waiting_s=600, idle_for_s=9), ""),
        (Facts(4, 4, 0, waiting_s=12, idle_for_s=600), "a task has waited for 12 s while a worker is idle"),
        # One died and django-q2 is about to replace it.
        (Facts(3, 4, 2, waiting_s=0, idle_for_s=0), ""),
        (Facts(3, 4, 11, waiting_s=0, idle_for_s=0), "1 of 4 processes missing for 11 s"),
    ],
)
def test_a_cluster_is_stuck_when_it_could_work_and_does_not(facts: Facts, reason: str) -> None:
    assert stuck(facts, LIMITS) == reason


@pytest.mark.parametrize(
    ("busy", "queued", "elsewhere", "missing"),
    [
        (0, 0, 0, 2),  # just started
        (1, 0, 0, 1),  # one was killed
        (1, 1, 0, 0),  # its successor is on its way
        (0, 0, 2, 0),  # another supervisor on this node runs them
        (2, 1, 0, 0),  # never negative
    ],
)
def test_runners_are_enqueued_as_far_as_they_are_missing(busy: int, queued: int, elsewhere: int, missing: int) -> None:
    assert missing_runners(wanted=2, busy=busy, queued=queued, elsewhere=elsewhere) == missing


# -- real processes ---------------------------------------------------------------------------------------------------

Work = Callable[..., "Worker"]


class Worker:
    """A `manage.py work` under test."""

    def __init__(self, log: Path, *arguments: str, anew: bool) -> None:
        self.log = log
        command = ("manage.py", "work", *arguments)
        self.process: subprocess.Popen[bytes] | Forked
        with log.open("w") as output:
            if anew:
                self.process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output, cwd=ROOT)
            else:
                self.process = Forked(*command, ahead=RUNNER, stdout=output, stderr=output)
        self.seen: dict[int, psutil.Process] = {}

    def family(self) -> list[psutil.Process]:
        """Every process of it that lives now; all that were ever seen are remembered for the end."""
        try:
            root = psutil.Process(self.process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.seen.update((process.pid, process) for process in found)
        return found

    def left(self) -> list[psutil.Process]:
        """Processes that were seen and still live."""
        return [p for p in self.seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def said(self, event: str) -> int:
        return self.log.read_text().count(event)

    def end(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        self.family()
        self.process.send_signal(number)
        return self.process.wait(seconds)


@pytest.fixture
def work(own_database: str, tmp_path: Path) -> Iterator[Work]:
    started: list[Worker] = []

    def start(*arguments: str, anew: bool = False) -> Worker:
        worker = Worker(tmp_path / f"work-{len(started)}.log", *arguments, anew=anew)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.family()
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(10)
        wait_until(lambda worker=worker: not worker.left(), "nothing is left of it", 10)  # type: ignore[misc]


def running() -> list[int]:
    """Process numbers of the runners that are at work."""
    return list(Runner.objects.filter(finished_at=None).values_list("pid", flat=True))


@pytest.mark.processes
def test_runners_are_kept_at_their_number_and_all_of_them_fit_in_memory(work: Work) -> None:
    worker = work("--cluster", "agents", "--workers", "2", anew=True)  # a fork shares the memory of its parent
    wait_until(lambda: len(running()) == 2, "two runners", 60)
    victim, other = running()
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(running()) == 2 and victim not in running(), "the killed one is replaced", 10)
    assert time.monotonic() - killed < 8  # usually under one second
    assert other in running()
    assert sum(process.memory_full_info().pss for process in worker.family()) < 500 * 2**20


@pytest.mark.processes
def test_it_ends_on_sigterm_and_leaves_neither_processes_nor_queued_runners(work: Work) -> None:
    worker = work("--cluster", "agents", "--workers", "2")
    wait_until(lambda: len(running()) == 2, "two runners", 60)
    assert worker.end() == 0
    assert worker.left() == []
    assert running() == []
    assert not OrmQ.objects.exists()


@pytest.mark.processes
def test_nothing_outlives_it_when_it_is_killed(work: Work) -> None:
    worker = work("--cluster", "agents", "--workers", "1")
    wait_until(lambda: len(running()) == 1, "a runner", 60)
    assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not worker.left(), "its whole family is gone", 5)


@pytest.mark.processes
def test_a_dead_sentinel_means_a_new_cluster(work: Work) -> None:
    worker = work("--cluster", "agents", "--workers", "1")
    wait_until(lambda: len(running()) == 1, "a runner", 60)
    [first] = running()
    [cluster] = psutil.Process(worker.process.pid).children()
    [sentinel] = cluster.children()
    worker.family()
    sentinel.kill()
    wait_until(lambda: running() not in ([], [first]), "another runner", 20)
    assert first not in [process.pid for process in worker.left()]
    assert worker.said("cluster_died") == 1
    assert worker.end() == 0


@pytest.mark.processes
def test_a_cluster_whose_queue_is_locked_for_ever_is_replaced(work: Work, tmp_path: Path) -> None:
    worker = work("--cluster", "ops", "--workers", "1")
    mark = tmp_path / "mark"
    enqueue("tests.jobs.write", path=str(mark), text="first")
    wait_until(mark.exists, "the first job ran", 60)
    # The only worker waits for work, and holds the lock of the queue while it does.
    [cluster] = psutil.Process(worker.process.pid).children()
    [sentinel] = cluster.children()
    idle = min(sentinel.children(), key=lambda child: child.pid)  # workers are forked before the other two
    idle.kill()
    enqueue("tests.jobs.write", path=str(mark), text="second")
    wait_until(lambda: "second" in mark.read_text(), "the second job ran", 60)
    assert worker.said("cluster_stuck") == 1
    assert mark.read_text().split() == ["first", "second"]
    assert worker.end() == 0


@pytest.mark.processes
def test_a_second_signal_does_not_wait_and_what_was_cut_short_is_due_again(work: Work, tmp_path: Path) -> None:
    worker = work("--cluster", "ops", "--workers", "1")
    mark = tmp_path / "mark"
    enqueue("tests.jobs.hang", path=str(mark))
    wait_until(mark.exists, "the job runs", 60)
    worker.family()
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: worker.said("worker_stopping") == 1, "it is ending")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(1)
    assert worker.end(seconds=5) == 0
    assert worker.left() == []
    assert OrmQ.objects.get().lock <= timezone.now()


@pytest.mark.processes
def test_the_job_of_a_worker_that_died_is_due_again_soon(work: Work, tmp_path: Path) -> None:
    worker = work("--cluster", "ops", "--workers", "2")
    mark = tmp_path / "mark"
    enqueue("tests.jobs.hang", path=str(mark))
    wait_until(mark.exists, "the job runs", 60)
    wait_until(lambda: bool(mark.read_text().strip()), "it told its number")
    worker.family()
    wait_until(lambda: worker.said("cluster_started") == 1, "it was seen")
    os.kill(int(mark.read_text()), signal.SIGKILL)
    wait_until(lambda: worker.said("worker_lost") == 1, "the loss was noticed")
    wait_until(lambda: (OrmQ.objects.get().lock - timezone.now()).total_seconds() < 31, "it is due soon", 5)
    assert worker.end() == 0


def test_a_number_of_workers_that_makes_no_sense_is_refused(own_database: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "work", "--workers", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "work: --workers is from 1 to 64.\n")
