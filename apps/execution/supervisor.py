"""Keeps a django-q2 cluster at work: notices when it is stuck, replaces what died, and ends it within the grace.

The cluster runs as a tree of processes forked from this one: the cluster itself, its sentinel, and the sentinel's
pusher, monitor and workers. A SIGKILL of an idle worker can leave the lock of their shared queue held for ever; then
nothing works and nothing stops, which only somebody outside the tree can see and mend.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import os
import select
import signal
import time
from dataclasses import dataclass

import psutil
import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connections
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ

from apps.execution.broker import queue_of
from apps.execution.cluster import Cluster, lives, preload, reap
from apps.execution.models import Runner
from portal.processes import adopt_orphans
from portal.queue import enqueue

log = structlog.get_logger(__name__)

RUN_AGENTS = "apps.execution.tasks.run_agents"
FRESH = dt.timedelta(seconds=10)
LOST_AGAIN_AFTER = dt.timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a cluster counts as stuck. Seconds."""

    tick_s: float = 1.0
    wait_s: float = 10.0  # a task waits this long although a worker idles
    missing_s: float = 10.0  # processes are missing for this long
    silent_s: float = 20.0  # a runner has not sent a heartbeat
    settling_s: float = 15.0  # after the database was away; django-q2's pusher sleeps for 10 s then
    longest_backoff_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of a cluster at one moment."""

    processes: int
    processes_wanted: int
    missing_for_s: float
    waiting_s: float  # how long the task that waits longest has waited
    idle_for_s: float  # how long the worker that idles longest has idled


def stuck(facts: Facts, limits: Limits) -> str:
    """Why the cluster must be replaced; empty while it is well."""
    if facts.missing_for_s > limits.missing_s:
        missing = facts.processes_wanted - facts.processes
        return f"{missing} of {facts.processes_wanted} processes missing for {facts.missing_for_s:.0f} s"
    if min(facts.waiting_s, facts.idle_for_s) > limits.wait_s:
        return f"a task has waited for {facts.waiting_s:.0f} s while a worker is idle"
    return ""


def missing_runners(*, wanted: int, busy: int, queued: int, elsewhere: int) -> int:
    """How many runners to enqueue: what is wanted, less those at work, on their way, or run by another supervisor."""
    return max(wanted - busy - queued - elsewhere, 0)


class Supervisor:
    """Runs one cluster until it is told to end."""

    def __init__(self, cluster: str, workers: int, *, limits: Limits | None = None) -> None:
        self.name = cluster
        self.workers = workers
        self.limits = limits or Limits()
        self.node = settings.NODE_NAME
        self.queue = queue_of(cluster)
        self._timeout_s = float(Conf.TIMEOUT or math.inf)
        self._current: Cluster | None = None
        self._retiring: list[Cluster] = []
        self._asked = 0
        self._start_at = 0.0
        self._backoff_s = 1.0
        self._database_since: float | None = -math.inf  # None: it is away
        self._silent_since: dict[int, float] = {}

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until SIGTERM or SIGINT; a second one does not wait for work in flight."""
        preload(self.name)
        adopt_orphans()
        wake, wakes = os.pipe()
        for end in (wake, wakes):
            os.set_blocking(end, False)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the wait below
        try:
            while not self._asked:
                self._tick()
                _wait(wake, self.limits.tick_s)
            self._end(wake)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(wakes)

    def _ask(self, *_: object) -> None:
        self._asked += 1

    def _end(self, wake: int) -> None:
        """Stops taking work at once, lets what runs finish within the grace, and leaves no process."""
        log.info("worker_stopping", cluster=self.name, grace_s=settings.GRACE_SECONDS)
        if self._current is not None:
            self._retire(settings.GRACE_SECONDS)
        while self._retiring:
            if self._asked > 1:
                for cluster in self._retiring:
                    cluster.kill_at = 0.0
            self._see_off()
            if self._retiring:
                _wait(wake, 0.1)
        if self.name == "agents":
            with contextlib.suppress(DatabaseError):
                # A runner that nobody started yet would wait for this node for ever.
                OrmQ.objects.filter(key=self.queue, lock__lte=timezone.now()).delete()
                self._bury(timezone.now())
        log.info("worker_stopped", cluster=self.name)

    def _tick(self) -> None:
        now = time.monotonic()
        self._see_off()
        current = self._current
        if current is not None and not current.process.is_alive():
            log.error("cluster_died", cluster=self.name, exit_code=current.process.exitcode)
            self._fell(now)
            current = None
        if current is None:
            if now >= self._start_at:
                self._start(now)
            return
        members = self._look(current, now)
        try:
            close_old_connections()
            self._watch(current, members, now)
        except DatabaseError as error:
            if self._database_since is not None:
                log.warning("database_lost", error=" ".join(str(error).split()))
            self._database_since = None
            self._silent_since.clear()
            connections.close_all()

    # -- starting and stopping a generation --------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        connections.close_all()  # a forked child must not share them
        self._current = Cluster.start(self.name, now)
        log.info("cluster_started", cluster=self.name, workers=self.workers, pid=self._current.pid)

    def _fell(self, now: float) -> None:
        """The current generation died by itself: the next one starts, later the sooner this one fell."""
        assert self._current is not None
        lived = now - self._current.started
        self._backoff_s = 1.0 if lived > 60 else min(self._backoff_s * 2, self.limits.longest_backoff_s)
        self._start_at = now + (0.0 if lived > 60 else self._backoff_s)
        self._retire(0.0)

    def _retire(self, grace_s: float) -> None:
        """Tells the current generation to end; its place is free at once."""
        cluster, self._current = self._current, None
        assert cluster is not None
        cluster.kill_at = time.monotonic() + grace_s
        self._retiring.append(cluster)
        if self.name == "agents":  # runners hand back what they cannot finish; jobs run to their end
            cluster.tell()
        with contextlib.suppress(ProcessLookupError):
            os.kill(cluster.pid, signal.SIGTERM)

    def _abandon(self, cluster: Cluster) -> None:
        """Of a stuck generation only what runs may go on; what it took and cannot start goes to the next one."""
        started = cluster.started_rows()
        for pid, work in cluster.workers.items():
            if not work.row:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if not started:
            cluster.kill_at = 0.0
        waiting = [row for row in cluster.pulled if row not in started]
        self._due_again(waiting)
        for row in waiting:
            del cluster.pulled[row]

    def _see_off(self) -> None:
        """Looks after generations that are ending, and buries orphans they leave."""
        for cluster in list(self._retiring):
            if not cluster.was_killed:
                self._look(cluster, time.monotonic())
                if self.name == "agents":
                    cluster.tell()
            if not cluster.is_gone():
                if time.monotonic() < cluster.kill_at and cluster.process.is_alive():
                    continue
                cluster.kill()
            reap()
            if cluster.is_gone():
                cluster.process.join()
                self._retiring.remove(cluster)
                self._give_back(cluster)

    def _give_back(self, cluster: Cluster) -> None:
        """What an ended generation had taken from the queue and not finished is due again at once."""
        with contextlib.suppress(DatabaseError):
            self._due_again([*cluster.pulled, *cluster.started_rows()])

    def _due_again(self, rows: list[int]) -> None:
        found = OrmQ.objects.filter(pk__in=rows)
        if self.name == "agents":
            found.delete()  # runners are counted, and enqueued anew as they are missing
        elif count := found.update(lock=timezone.now()):
            log.warning("tasks_given_back", cluster=self.name, count=count)

    # -- watching ----------------------------------------------------------------------------------------------------

    def _look(self, cluster: Cluster, now: float) -> list[psutil.Process]:
        """Notes what the processes of a generation do; those that live."""
        noted = cluster.board.workers()  # before the processes are listed: who is not among them then has ended
        members = cluster.members()
        pulled, cluster.pulled_count = cluster.board.pulled_since(cluster.pulled_count)
        cluster.pulled.update(pulled)
        alive = {member.pid for member in members}
        for pid in noted.keys() - alive:
            cluster.board.strike_off(pid)
            if noted[pid].row:
                log.warning("worker_lost", cluster=self.name, pid=pid)
                self._lost(cluster, noted[pid].row, now - noted[pid].since)
        cluster.workers = {pid: work for pid, work in noted.items() if pid in alive}
        if len(members) >= self.workers + 2:
            cluster.whole_at = now
        return members

    def _lost(self, cluster: Cluster, row: int, ran_s: float) -> None:
        """The task of a worker that died is due again soon, not when django-q2 would notice; a runner is replaced."""
        cluster.pulled.pop(row, None)
        found = OrmQ.objects.filter(pk=row)
        with contextlib.suppress(DatabaseError):
            if self.name == "agents":
                found.delete()
            elif ran_s < self._timeout_s:  # one that was killed for its length would only be long again
                found.update(lock=timezone.now() + LOST_AGAIN_AFTER)

    def _watch(self, cluster: Cluster, members: list[psutil.Process], now: float) -> None:
        at = timezone.now()
        waiting_s = self._waiting_s(cluster, at, now)
        if self._database_since is None:
            self._database_since = now
        calm_s = min(now - cluster.started, now - self._database_since - self.limits.settling_s)
        facts = Facts(
            processes=len(members),
            processes_wanted=self.workers + 2,
            missing_for_s=now - max(cluster.whole_at, cluster.started),
            waiting_s=min(waiting_s, calm_s),
            idle_for_s=max((now - work.since for work in cluster.workers.values() if not work.row), default=0.0),
        )
        if reason := stuck(facts, self.limits):
            log.error("cluster_stuck", cluster=self.name, reason=reason)
            self._retire(settings.GRACE_SECONDS)
            self._abandon(cluster)
            self._start(now)
        elif self.name == "agents":
            self._keep_runners(cluster, at, now)

    def _waiting_s(self, cluster: Cluster, at: dt.datetime, now: float) -> float:
        """How long the task that waits longest has waited: due in the database, or taken and not started."""
        kept: set[int] = set()
        if cluster.pulled:
            kept.update(OrmQ.objects.filter(pk__in=list(cluster.pulled)).values_list("pk", flat=True))
        cluster.pulled = {row: since for row, since in cluster.pulled.items() if row in kept}
        started = cluster.started_rows()
        longest = max((now - since for row, since in cluster.pulled.items() if row not in started), default=0.0)
        due = OrmQ.objects.filter(key=self.queue, lock__lte=at).order_by("lock").values_list("lock", flat=True).first()
        return longest if due is None else max(longest, (at - due).total_seconds())

    def _keep_runners(self, cluster: Cluster, at: dt.datetime, now: float) -> None:
        alive = self._bury(at)
        self._end_silent(cluster, alive, at, now)
        ending = {pid for retiring in self._retiring for pid in retiring.workers}
        elsewhere = sum(
            1
            for row in alive
            if row.pid not in cluster.workers and row.pid not in ending and row.heartbeat_at > at - FRESH
        )
        started = cluster.started_rows()
        queued = OrmQ.objects.filter(key=self.queue, lock__lte=at).count()
        queued += sum(row not in started for row in cluster.pulled)
        count = missing_runners(wanted=self.workers, busy=len(started), queued=queued, elsewhere=elsewhere)
        for _ in range(count):
            wanted = self.workers + sum(row.pid in ending for row in alive)
            enqueue(RUN_AGENTS, cluster="agents", node=self.node, wanted=wanted)

    def _bury(self, at: dt.datetime) -> list[Runner]:
        """Marks the runners of this node whose process is gone; those that live."""
        rows = list(Runner.objects.filter(node=self.node, finished_at=None))
        dead = [row.pk for row in rows if not _has_process(row)]
        if dead:
            Runner.objects.filter(pk__in=dead, finished_at=None).update(finished_at=at)
        return [row for row in rows if row.pk not in dead]

    def _end_silent(self, cluster: Cluster, alive: list[Runner], at: dt.datetime, now: float) -> None:
        """Kills runners whose event loop hangs: they hold their agents, and a worker, for nothing."""
        limit = dt.timedelta(seconds=self.limits.silent_s)
        silent = {row.pid for row in alive if row.pid in cluster.workers and row.heartbeat_at < at - limit}
        self._silent_since = {pid: self._silent_since.get(pid, now) for pid in silent}
        for pid, since in self._silent_since.items():
            if now - since > self.limits.settling_s:
                log.error("runner_hung", node=self.node, pid=pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _wait(wake: int, seconds: float) -> None:
    """Until a signal comes or the time is over."""
    if select.select([wake], [], [], seconds)[0]:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)


def _has_process(row: Runner) -> bool:
    """Whether the runner's process lives, and is not a later one with the same number."""
    try:
        process = psutil.Process(row.pid)
        # A clock that was set meanwhile shifts the start of a process as the system tells it: hence the minute.
        return lives(process) and process.create_time() <= row.started_at.timestamp() + 60
    except psutil.NoSuchProcess:
        return False
