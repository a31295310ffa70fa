"""Runners and simulators for tests: a real event loop, real HTTP, a real database."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from django.db import connections

from apps.execution.runner import Runner, RunnerConfig
from apps.execution.runtimes import AgentRuntime
from apps.providers.secrets.keeper import Keeper
from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[1]


def wait_until(condition: Callable[[], object], *, timeout_s: float = 20, what: str = "the condition") -> None:
    """Looks again and again until it holds, less often after a while; AssertionError when it does not in time."""
    began = time.monotonic()
    pause = threading.Event()
    while not condition():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"{what} did not come true within {timeout_s:g} s"
        pause.wait(0.02 if waited < 0.5 else 0.05)


class SimulatorProcess:
    """A simulated provider in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/simulator/stats", timeout=5) as answer:
            loaded: dict[str, Any] = json.load(answer)
        return loaded

    def outage(self, seconds: float | None, mode: str = "refuse") -> None:
        """Takes it down: for some seconds, for ever (None), or not any more (0)."""
        body = json.dumps({"seconds": seconds, "mode": mode}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/simulator/outage", body)
        urllib.request.urlopen(request, timeout=5).close()

    def accept(self, *keys: str) -> None:
        """From now on, it takes these keys and no others."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/simulator/keys", json.dumps({"accepted": keys}).encode()
        )
        urllib.request.urlopen(request, timeout=5).close()


@contextmanager
def simulator(*arguments: str, latency_ms: int = 20) -> Iterator[SimulatorProcess]:
    port = free_port()
    forking = _simulators()
    assert forking.stdin is not None
    assert forking.stdout is not None
    forking.stdin.write(json.dumps(["--port", str(port), "--latency-ms", str(latency_ms), *arguments]) + "\n")
    forking.stdin.flush()
    process = psutil.Process(int(forking.stdout.readline()))

    def listening() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(listening, what="the simulator")
        yield SimulatorProcess(port)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            process.wait(10)


@functools.cache
def _simulators() -> subprocess.Popen[str]:
    """The process of this test process that forks its simulators."""
    command = [sys.executable, "-m", "tests.simulators"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def run_until(
    condition: Callable[[], object],
    *,
    config: RunnerConfig | None = None,
    runtimes: Mapping[str, AgentRuntime] | None = None,
    keeper: Keeper | None = None,
    meanwhile: Callable[[Runner], None] = lambda runner: None,
    timeout_s: float = 20,
) -> Runner:
    """Runs a runner in this process until the condition holds, then drains it.

    ``condition`` and ``meanwhile`` run on a thread beside it, with a database connection of their own.
    """
    runner = Runner("test", config, runtimes=runtimes, keeper=keeper)
    failure: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def watch() -> None:
            try:
                meanwhile(runner)
                wait_until(condition, timeout_s=timeout_s)
            except BaseException as error:
                failure.append(error)
            finally:
                connections.close_all()
                loop.call_soon_threadsafe(runner.drain)

        working = asyncio.create_task(runner.run())
        watcher = threading.Thread(target=watch)
        watcher.start()
        await working
        await asyncio.to_thread(watcher.join)

    asyncio.run(main())
    if failure:
        raise failure[0]
    return runner
