"""`manage.py up`: everything on one machine, for real."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from apps.execution.cluster import lives
from tests.processes import ROOT, environment, free_port, manage, processes_with, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


class Up:
    """A running `manage.py up`."""

    def __init__(self, data_dir: Path, log: Path, *arguments: str, **changes: str) -> None:
        self.port = free_port()
        self.data_dir, self.log = data_dir, log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up", "--port", str(self.port), *arguments],
                cwd=ROOT,
                env=environment(DATA_DIR=str(data_dir), **changes),
                stdout=output,
                stderr=output,
            )

    def text(self) -> str:
        return self.log.read_text()

    def ready(self) -> None:
        wait_until(lambda: "Swarmdesk is at" in self.text() or self.process.poll() is not None, "it is ready", 150)
        assert self.process.poll() is None, self.text()

    def get(self, path: str) -> tuple[int, str]:
        page = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            page.request("GET", path)
            response = page.getresponse()
            return response.status, response.read().decode()
        finally:
            page.close()

    def duties(self, name: str) -> list[psutil.Process]:
        """The processes that do a duty: ``daphne``, ``orchestrate``, ..."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if any(name in part for part in child.cmdline()):
                    found.append(child)
        return found

    def left(self) -> list[psutil.Process]:
        return [process for process in processes_with(str(self.data_dir)) if lives(process)]

    def leaves_nothing(self, seconds: float) -> None:
        try:
            wait_until(lambda: not self.left(), "nothing is left", seconds)
        except AssertionError:
            pytest.fail(f"Left after {seconds:g} s: {self.left()}\n{self.text()[-4000:]}")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "portal"


@pytest.fixture
def up(data_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str, **changes: str) -> Up:
        running = Up(data_dir, tmp_path / f"up-{len(started)}.log", *arguments, **changes)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(10)
    for running in started:
        running.leaves_nothing(30)


def test_it_tells_where_it_is_mends_itself_and_leaves_nothing_however_it_ends(up: Callable[..., Up]) -> None:
    first = up()
    first.ready()
    assert f"Swarmdesk is at http://127.0.0.1:{first.port}" in first.text()
    assert first.get("/readyz")[0] == 200
    assert first.get("/")[0] in (200, 302)
    password = re.search(r"the password of each is: (\S+)", first.text())
    assert password
    names = {line.split("│")[0].strip() for line in first.text().splitlines() if "│" in line}
    assert {"up", "sim-east", "sim-west"} <= names

    [orchestrator] = first.duties("orchestrate")
    orchestrator.kill()
    wait_until(lambda: "orchestrator │ ended (signal 9); starting again" in first.text(), "it was noticed")
    wait_until(lambda: bool(first.duties("orchestrate")), "it runs again")

    again = subprocess.run(
        [sys.executable, "manage.py", "up", "--port", str(free_port())],
        cwd=ROOT,
        env=environment(DATA_DIR=str(first.data_dir)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert again.stderr == (
        f"up: Swarmdesk already runs on {first.data_dir}. End that one first, or set DATA_DIR to another folder.\n"
    )

    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(25) == 0, first.text()
    first.leaves_nothing(10)
    assert "Traceback" not in first.text()

    second = up()
    second.ready()
    assert f"the password of each is: {password[1]}" in second.text()
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait(5)
    second.leaves_nothing(60)


def test_it_works_on_a_database_of_its_own_without_a_demo(up: Callable[..., Up], own_database: str) -> None:
    running = up("--no-demo", "--workers", "1", DATABASE_URL=own_database, STANDALONE="true", SECRET_KEY="x" * 50)
    running.ready()
    assert "manage.py createsuperuser" in running.text()
    assert "sim-east" not in running.text()
    assert not (running.data_dir / "postgres").exists()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(25) == 0, running.text()


def test_a_busy_port_is_one_line_before_anything_starts(data_dir: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = manage("up", "--port", str(port), DATA_DIR=str(data_dir))
    assert done.returncode == 2
    assert done.stderr.startswith(f"up: Port {port} on 127.0.0.1 is in use.")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert not (data_dir / "postgres").exists()


def test_a_broken_data_folder_is_one_line(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "letter.txt").write_text("dear reader")
    done = manage("up", "--port", str(free_port()), DATA_DIR=str(data_dir))
    assert done.returncode == 2
    assert done.stderr == (
        f"up: {data_dir / 'postgres'} holds something that is not a PostgreSQL database (no PG_VERSION). "
        "Move it away, or set DATA_DIR to another folder.\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--port", "0", "--port is from 1 to 65535."),
        ("--port", "web", "argument --port: invalid int value: 'web' (see manage.py up --help)"),
        ("--workers", "0", "--workers is from 1 to 64."),
    ],
)
def test_a_bad_option_is_one_line(option: str, value: str, told: str, data_dir: Path) -> None:
    done = manage("up", option, value, DATA_DIR=str(data_dir))
    assert (done.returncode, done.stderr) == (2, f"up: {told}\n")
