"""One django-q2 cluster as a tree of processes forked from its supervisor: started, looked at, ended."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import math
import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from typing import Any

import psutil
from django_q import signals as queue_signals

from apps.execution import board as board_module
from apps.execution.board import Board, Work
from portal.processes import die_with_parent

PRELOADED = ("apps.execution.tasks", "apps.execution.runner", "pydantic_ai", "openai", "pydantic_ai.models.openai")


@dataclass(slots=True)
class Cluster:
    """One generation of the tree of processes."""

    process: Any  # multiprocessing's, of the fork context
    board: Board
    started: float
    pulled: dict[int, float] = field(default_factory=dict)  # rows taken from the queue and not yet acknowledged
    pulled_count: int = 0
    workers: dict[int, Work] = field(default_factory=dict)  # that live, by process number
    whole_at: float = 0.0  # when no process was missing
    told: set[int] = field(default_factory=set)  # workers that were told to end
    kill_at: float = math.inf
    was_killed: bool = False

    @classmethod
    def start(cls, name: str, now: float) -> Cluster:
        """Forks a tree. The caller has no database connection open: a child would share it."""
        board = Board()
        # Forked, whatever the platform's habit: the children share what was loaded before.
        process = multiprocessing.get_context("fork").Process(target=_top, args=(board, os.getpid()), name=name)
        process.start()
        return cls(process, board, now, whole_at=now)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def members(self) -> list[psutil.Process]:
        """The sentinel's children: pusher, monitor and workers that live."""
        try:
            below = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        parents: dict[int | None, int | None] = {process.pid: _parent(process) for process in below}
        return [process for process in below if parents.get(parents[process.pid]) == self.pid and lives(process)]

    def started_rows(self) -> set[int]:
        """The queue rows that its workers execute."""
        return {work.row for work in self.workers.values() if work.row}

    def tell(self) -> None:
        """Tells busy workers to end. An idle one is left alone: killed there, it would hold the queue's lock."""
        for pid, work in self.workers.items():
            if work.row and pid not in self.told:
                self.told.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the whole tree at once: it is a process group of its own."""
        self.was_killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def is_gone(self) -> bool:
        """Whether no process of the tree is left."""
        if self.process.is_alive():
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return not any(lives(child) for child in psutil.Process().children() if _group(child.pid) == self.pid)


def preload(cluster: str) -> None:
    """Loads what the workers need before they are forked, in memory that they then share."""
    gc.disable()
    if cluster == "agents":
        for module in PRELOADED:
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
    gc.collect()
    gc.freeze()
    gc.enable()


def _top(shared: Board, supervisor: int) -> None:
    """The top of a forked tree: django-q2's cluster in a process group of its own, which ends with its supervisor."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    die_with_parent()
    multiprocessing.set_start_method("fork", force=True)  # for the locks and queues that django-q2 makes
    board_module.current = shared

    def rests(**_: Any) -> None:
        shared.works_on(0)

    def works(task: dict[str, Any], **_: Any) -> None:
        shared.works_on(int(task.get("ack_id") or -1))

    queue_signals.post_spawn.connect(rests, weak=False)
    queue_signals.pre_execute.connect(works, weak=False)
    queue_signals.post_execute_in_worker.connect(rests, weak=False)

    from django_q.cluster import Cluster as QCluster

    cluster = QCluster()
    cluster.start()
    while cluster.sentinel.is_alive():
        cluster.sentinel.join(0.5)
        if os.getppid() != supervisor:
            os.killpg(0, signal.SIGKILL)


def reap() -> None:
    """Takes note of the ends of adopted processes, so that they do not stay as zombies."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and not _is_own(child.pid):
                os.waitpid(child.pid, os.WNOHANG)


def _is_own(pid: int) -> bool:
    return any(child.pid == pid for child in multiprocessing.active_children())


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
