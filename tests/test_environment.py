"""The environment: each variable is read as promised, and what is wrong is told in one line that names it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal import env
from tests.processes import ROOT, manage

SECRET_KEY = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijkl"
MASTER_KEY = bytes(range(32)).hex()


@pytest.fixture(autouse=True)
def problems() -> Iterator[list[tuple[str, str]]]:
    """What the readers complain about during the test."""
    kept = list(env.problems)
    env.problems.clear()
    yield env.problems
    env.problems[:] = kept


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda value, name="THING": monkeypatch.setenv(name, value)


def test_a_mounted_file_holds_the_value_as_well(variable: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    variable(str(tmp_path / "secret"), "THING_FILE")
    assert env.text("THING") == "from a file"


def test_a_file_that_cannot_be_read_is_a_problem_of_its_variable(
    variable: Any, tmp_path: Path, problems: list[tuple[str, str]]
) -> None:
    variable(str(tmp_path / "absent"), "THING_FILE")
    assert env.text("THING", "default") == "default"
    assert problems == [("THING_FILE", f"cannot be read: No such file or directory: {tmp_path / 'absent'}")]


def test_both_the_variable_and_its_file_are_one_too_many(
    variable: Any, tmp_path: Path, problems: list[tuple[str, str]]
) -> None:
    (tmp_path / "secret").write_text("x")
    variable(str(tmp_path / "secret"), "THING_FILE")
    variable("y")
    env.text("THING")
    assert problems == [("THING", "set either THING or THING_FILE, not both")]


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("YES", True), ("1", True), ("off", False), ("0", False)])
def test_flags_are_read_in_the_usual_spellings(variable: Any, raw: str, value: bool) -> None:
    variable(raw)
    assert env.flag("THING", not value) is value


@pytest.mark.parametrize("raw", ["0", "-1", "two", "2.5", "1e3"])
def test_a_count_is_a_whole_number(variable: Any, raw: str, problems: list[tuple[str, str]]) -> None:
    variable(raw)
    assert env.whole("THING", 7) == 7
    assert problems == [("THING", f"expected a whole number from 1 up: got {raw!r}")]


def test_an_unknown_choice_names_the_known_ones(variable: Any, problems: list[tuple[str, str]]) -> None:
    variable("xml")
    assert env.choice("THING", ["json", "console"], "json") == "json"
    assert problems == [("THING", "expected one of json, console: got 'xml'")]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("sqlite:///db", "it starts with sqlite://"),
        ("localhost", "it has no scheme"),
        ("postgresql://joe:s3cret@host", "it names no database"),
        ("postgres://joe:s3@cret@[x/", "percent-encoded"),
    ],
)
def test_a_wrong_database_url_is_told_without_its_password(
    variable: Any, raw: str, told: str, problems: list[tuple[str, str]]
) -> None:
    variable(raw)
    assert env.database("THING") == {}
    [(name, problem)] = problems
    assert name == "THING"
    assert told in problem
    assert "cret" not in problem


def test_a_database_url_becomes_a_description(variable: Any, problems: list[tuple[str, str]]) -> None:
    variable("postgresql://joe:p%40ss@db:5433/desk?sslmode=require")
    found = env.database("THING")
    assert (found["USER"], found["PASSWORD"], found["HOST"], found["PORT"], found["NAME"]) == (
        "joe",
        "p@ss",
        "db",
        5433,
        "desk",
    )
    assert found["OPTIONS"] == {"sslmode": "require"}
    assert not problems


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("s3.example:9000", "it does not start so"),
        ("http://", "it has no host"),
        ("https://key:s3cret@s3.example", "keys do not belong into it"),
    ],
)
def test_a_wrong_address_is_told_without_its_keys(
    variable: Any, raw: str, told: str, problems: list[tuple[str, str]]
) -> None:
    variable(raw)
    assert env.url("THING") == ""
    assert problems == [("THING", f"expected an address that starts with http:// or https://: {told}")]


@pytest.mark.parametrize(("raw", "fits"), [("desk-1.eu", True), ("Desk", False), ("de", False), ("-desk", False)])
def test_a_bucket_has_the_name_of_one(variable: Any, raw: str, fits: bool, problems: list[tuple[str, str]]) -> None:
    variable(raw)
    assert env.bucket("THING") == (raw if fits else "")
    assert [name for name, _ in problems] == ([] if fits else ["THING"])


@pytest.mark.parametrize(
    "raw",
    [
        "desk ops=acme:operator, desk-*=widget:viewer,",
        '{"desk ops": "acme:operator", "desk-*": ["widget:viewer"]}',
    ],
)
def test_groups_and_their_roles_are_read_in_both_spellings(variable: Any, raw: str) -> None:
    variable(raw)
    assert env.group_roles("THING") == [
        env.GroupRole("desk ops", "acme", "operator"),
        env.GroupRole("desk-*", "widget", "viewer"),
    ]


@pytest.mark.parametrize("raw", ["ops", "ops=acme", "=acme:viewer", "ops=acme:", '{"ops": 1}', '{"ops"', '{"a": {}}'])
def test_a_group_without_a_role_is_told(variable: Any, raw: str, problems: list[tuple[str, str]]) -> None:
    variable(raw)
    assert env.group_roles("THING") == []
    [(name, problem)] = problems
    assert name == "THING"
    assert problem.startswith("expected GROUP=TENANT:ROLE by commas")


def test_every_problem_is_told_at_once_one_line_each() -> None:
    done = manage(
        "showmigrations", DATABASE_URL="postgresql://joe:s3cret@127.0.0.1:1/desk", DEBUG="maybe", AGENT_WORKERS="many"
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [re.sub(r"^showmigrations: (\w+).*", r"\1", line) for line in lines] == [
        "DEBUG",
        "AGENT_WORKERS",
        "SECRET_KEY",
        "ALLOWED_HOSTS",
        "VAULT_MASTER_KEY",
    ]


def test_a_database_that_is_not_there_is_one_line_without_the_password() -> None:
    done = manage(
        "showmigrations",
        "--skip-checks",
        DATABASE_URL="postgresql://joe:s3cret@127.0.0.1:1/desk",
        SECRET_KEY=SECRET_KEY,
        ALLOWED_HOSTS="desk.example",
        VAULT_MASTER_KEY=MASTER_KEY,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("showmigrations: The database at DATABASE_URL (postgresql://joe@127.0.0.1:1/desk) ")
    assert "Connection refused" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr


def test_a_master_key_that_is_wrong_stops_a_command_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{MASTER_KEY}\nchangeme-please\n")
    server = {
        "DATABASE_URL": "postgresql://joe@127.0.0.1:1/desk",
        "SECRET_KEY": SECRET_KEY,
        "ALLOWED_HOSTS": "desk.example",
    }
    done = manage("showmigrations", **server, VAULT_MASTER_KEY_FILE=str(tmp_path / "keys"))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "showmigrations: VAULT_MASTER_KEY: expected keys of 32 random bytes in base64, by commas: key 2"
    )
    assert "changeme" not in line
    assert MASTER_KEY not in line


def test_help_is_given_even_where_the_environment_is_wrong() -> None:
    done = manage("up", "--help", DEBUG="maybe")
    assert done.returncode == 0
    assert "--no-demo" in done.stdout


def test_every_variable_that_is_read_is_documented() -> None:
    read = re.compile(
        r"""env\.(?:text|flag|items|choice|parsed|whole|database|url|bucket|group_roles|networks|secrets_backend|worker_class)\(\s*["'](\w+)["']"""
    )
    names = set()
    for path in [*(ROOT / "portal").rglob("*.py"), *(ROOT / "apps").rglob("*.py")]:
        names |= set(read.findall(path.read_text(encoding="utf-8")))
    assert {"DATABASE_URL", "SECRET_KEY", "LOG_FORMAT"} <= names
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z]\w*)`", page, re.MULTILINE))
    assert names - documented == set()
    assert documented - names == set()
