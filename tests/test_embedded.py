"""The embedded PostgreSQL: it starts anywhere, tells clearly when it cannot, and never stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from portal import embedded
from portal.embedded import CannotStart, Server
from tests.processes import ROOT, manage, processes_with, run_python, wait_until

pytestmark = pytest.mark.processes

USE = "import sys, pathlib, portal.embedded as e; e.ensure_running(pathlib.Path(sys.argv[1]))"


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "portal" / "postgres"
    yield directory
    wait_until(lambda: not servers_of(directory), f"the server of {directory} is gone")


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server that was stopped."""
    made = Server(tmp_path_factory.mktemp("whole") / "postgres")
    made.ensure_running()
    made.release()
    return made.data_dir


@pytest.fixture
def made_dir(data_dir: Path, whole_folder: Path) -> Path:
    """A data folder that was made before: what is tested is not how. To make one takes half a second of a processor."""
    data_dir.parent.mkdir()
    subprocess.run(["cp", "-a", whole_folder, data_dir], check=True)
    return data_dir


def servers_of(data_dir: Path) -> list[psutil.Process]:
    """The postmaster of a data folder, in a list."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and str(data_dir) in (process.info["cmdline"] or [])
    ]


@pytest.fixture
def server(made_dir: Path) -> Iterator[Server]:
    started = Server(made_dir)
    yield started
    started.release()


def ask(params: dict[str, Any], question: str) -> Any:
    with psycopg.connect(dbname="postgres", **params) as connection:
        row = connection.execute(question.encode()).fetchone()
    connection.close()
    assert row is not None
    return row[0]


def test_it_starts_from_nothing_is_durable_and_opens_no_port(data_dir: Path) -> None:
    server = Server(data_dir)
    params = server.ensure_running()
    assert ask(params, "SELECT current_setting('fsync')") == "on"
    assert ask(params, "SELECT current_setting('synchronous_commit')") == "on"
    assert ask(params, "SELECT current_setting('shared_buffers')") == "256MB"
    assert ask(params, "SELECT current_setting('max_connections')") == "200"
    assert ask(params, "SELECT current_setting('listen_addresses')") == ""
    assert ask(params, "SELECT getdatabaseencoding()") == "UTF8"
    [postmaster] = servers_of(server.data_dir)
    assert postmaster.username() != "root"
    assert not [c for c in postmaster.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    server.release()


def test_data_stays_from_one_start_to_the_next(data_dir: Path) -> None:
    first = Server(data_dir)
    ask(first.ensure_running(), "SELECT 1 FROM (SELECT set_config('x.y', 'z', false)) AS s")
    with psycopg.connect(dbname="postgres", autocommit=True, **first.ensure_running()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    first.release()
    assert not servers_of(data_dir)
    second = Server(data_dir)
    assert ask(second.ensure_running(), "SELECT answer FROM kept") == 42
    second.release()


def test_a_command_that_connects_leaves_no_server_and_no_noise(data_dir: Path) -> None:
    done = manage("check", "--database", "default", DATA_DIR=str(data_dir.parent))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (data_dir / "PG_VERSION").exists()
    wait_until(lambda: not servers_of(data_dir), "the server ended with the command", 5)


def test_a_user_that_is_killed_leaves_no_server(made_dir: Path) -> None:
    killed = run_python("-c", USE + "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)", str(made_dir))
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not servers_of(made_dir), "the keeper stopped the server", 10)


def test_who_is_killed_while_starting_it_leaves_no_server(made_dir: Path) -> None:
    dies = (
        "import subprocess, os, signal; run = subprocess.run\n"
        "def start(command, **how):\n"
        "    if 'start' not in command: return run(command, **how)\n"
        "    how.pop('check'); subprocess.Popen(command, **how); os.kill(os.getpid(), signal.SIGKILL)\n"
        "subprocess.run = start\n"
    )
    killed = run_python("-c", dies + USE, str(made_dir))
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: bool(servers_of(made_dir)), "it started all the same")
    wait_until(lambda: not processes_with(str(made_dir)), "the keeper stopped the server, and ended", 15)


def test_the_second_user_does_not_lose_the_server_to_the_first(server: Server) -> None:
    params = server.ensure_running()
    assert run_python("-c", USE, str(server.data_dir)).returncode == 0
    assert ask(params, "SELECT 1") == 1


def test_the_first_user_may_end_before_the_second(made_dir: Path) -> None:
    first, second = Server(made_dir), Server(made_dir)
    params = first.ensure_running()
    second.ensure_running()
    first.release()
    assert ask(params, "SELECT 1") == 1
    second.release()
    assert not servers_of(made_dir)


def test_many_may_start_it_for_the_first_time_at_once(data_dir: Path) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", USE + "; input()", str(data_dir)], cwd=ROOT, stdin=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    one = Server(data_dir)
    one.ensure_running()
    assert len(servers_of(data_dir)) == 1
    one.release()
    for process in starts:
        process.communicate("\n", timeout=60)
    assert [process.returncode for process in starts] == [0] * 4


def test_a_mark_of_a_dead_server_whose_number_somebody_else_has_is_no_obstacle(server: Server) -> None:
    server.ensure_running()
    [postmaster] = servers_of(server.data_dir)
    mark = (server.data_dir / "postmaster.pid").read_text()
    postmaster.kill()
    psutil.wait_procs([postmaster], 10)
    (server.data_dir / "postmaster.pid").write_text(mark.replace(str(postmaster.pid), str(os.getpid()), 1))
    assert ask(server.ensure_running(), "SELECT 1") == 1


def test_a_server_that_was_killed_starts_again_on_next_use(server: Server) -> None:
    server.ensure_running()
    [postmaster] = servers_of(server.data_dir)
    postmaster.kill()
    psutil.wait_procs([postmaster], 10)
    assert ask(server.ensure_running(), "SELECT 1") == 1


def test_a_server_that_does_not_stop_in_time_is_stopped_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ensure_running()
    [postmaster] = servers_of(server.data_dir)
    [checkpointer] = [each for each in postmaster.children() if "checkpointer" in " ".join(each.cmdline())]
    checkpointer.suspend()  # the server waits for its last checkpoint
    monkeypatch.setattr(embedded, "_STOP_SECONDS", 1)
    assert server.stop()
    assert not servers_of(server.data_dir)
    assert ask(server.ensure_running(), "SELECT 1") == 1


@pytest.mark.parametrize("name", ["deep/" + "long-name/" * 12, "with space, comma and 'quote'"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    server = Server(tmp_path / name / "postgres")
    assert ask(server.ensure_running(), "SELECT 1") == 1
    server.release()
    assert not servers_of(server.data_dir)


def make(kind: str, data_dir: Path) -> None:
    data_dir.parent.mkdir(parents=True)
    if kind == "file":
        data_dir.write_text("not a folder")
        return
    data_dir.mkdir()
    if kind == "other":
        (data_dir / "holiday.jpg").write_text("")
    else:
        (data_dir / "PG_VERSION").write_text("9.6\n" if kind == "old" else "18\n")
        if os.geteuid() == 0:
            os.chown(data_dir, 65534, 65534)
        data_dir.chmod(0o700)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("file", "is not a folder"),
        ("other", "is not a PostgreSQL database"),
        ("old", "was written by PostgreSQL 9.6"),
        ("broken", "does not start"),
    ],
)
def test_a_folder_that_cannot_be_used_gives_one_line_that_names_it(kind: str, told: str, data_dir: Path) -> None:
    make(kind, data_dir)
    done = manage("showmigrations", "--skip-checks", DATA_DIR=str(data_dir.parent))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("showmigrations: ")
    assert told in done.stderr
    assert str(data_dir) in done.stderr


def test_a_place_that_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=r"cannot use .*file.*DATA_DIR"):
        Server(tmp_path / "file" / "portal" / "postgres").ensure_running()
