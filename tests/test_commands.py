"""The commands: documented, helpful, and clear when they refuse."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db import connection

from portal import commands
from tests.databases import _admin, database_in_use
from tests.processes import ROOT, manage


class CannotJuggle(Exception):
    pass


class Juggle(commands.Command):
    refusals = (CannotJuggle,)

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--balls", type=int, default=3)

    def handle(self, *args: Any, balls: int, **options: Any) -> None:
        if balls == 0:
            raise ValidationError("There is nothing to juggle.")
        if balls > 5:
            raise CannotJuggle("Nobody juggles more than five.")
        if balls < 0:
            raise ZeroDivisionError("a fault, not a refusal")
        self.stdout.write(f"{balls} in the air")


class Drop(commands.WetRunMixin, commands.Command):
    def handle(self, *args: Any, wet_run: bool, **options: Any) -> None:
        self.stdout.write("dropped" if wet_run else "would drop")


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and stderr of the command run as from a shell."""
    with pytest.raises(SystemExit) as ended:
        Juggle().run_from_argv(["manage.py", "juggle", *argv])
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_refusal_of_the_domain_is_its_text_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--balls", "9") == (2, "juggle: Nobody juggles more than five.\n")


def test_a_validation_error_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--balls", "0") == (2, "juggle: There is nothing to juggle.\n")


def test_a_bad_option_is_one_line_that_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--balls", "many") == (
        2,
        "juggle: argument --balls: invalid int value: 'many' (see manage.py juggle --help)\n",
    )


def test_a_fault_is_not_dressed_up_as_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        Juggle().run_from_argv(["manage.py", "juggle", "--balls", "-1"])


def test_code_that_calls_a_command_gets_the_exception() -> None:
    with pytest.raises(CommandError, match="more than five") as refused:
        call_command(Juggle(), balls=9)
    assert refused.value.returncode == 2


@pytest.mark.parametrize(("wet", "output", "note"), [(False, "would drop", "Dry run"), (True, "dropped", "")])
def test_what_changes_much_is_dry_unless_it_is_told_otherwise(wet: bool, output: str, note: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    call_command(Drop(stdout=out, stderr=err), wet_run=wet)
    assert out.getvalue().strip() == output
    assert (note in err.getvalue()) if note else err.getvalue() == ""


def ours() -> list[str]:
    return sorted(name for name, app in get_commands().items() if str(app).startswith(("apps.", "portal")))


def command(name: str) -> BaseCommand:
    return load_command_class(get_commands()[name], name)


def test_every_command_of_ours_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in ours() if f"manage.py {name}" not in page] == []


@pytest.mark.parametrize("name", ours())
def test_every_command_of_ours_has_help_that_suffices(name: str) -> None:
    found = command(name)
    assert found.help.strip()
    parser = found.create_parser("manage.py", name)
    untold = ["/".join(action.option_strings) or action.dest for action in parser._actions if action.help in (None, "")]
    assert untold == []


@pytest.mark.parametrize("name", ours())
def test_every_command_of_ours_refuses_an_unknown_option_with_one_line(name: str, capsys: Any) -> None:
    found = command(name)
    if not isinstance(found, commands.Command):
        return  # told by argparse, as for Django's own
    with pytest.raises(SystemExit) as ended:
        found.run_from_argv(["manage.py", name, "--no-such-option"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


NEED_NO_DATABASE = {"simulate_provider", "spec_schema"}
STAY = {"demo_traffic", "orchestrate", "work", "up"}
"""What goes on until it is told to end waits for a database that is not there yet, or makes it."""
ARGUMENTS: dict[str, list[str]] = {
    "close_month": ["--tenant", "acme", "--period", "2026-10"],
    "create_api_token": ["--user", "ada", "--tenant", "acme"],
    "export_chargeback": ["--tenant", "acme", "--period", "2026-10", "--format", "csv", "--output", "/tmp/none.csv"],
    "invalidate_cache": ["*/*/*"],
    "revoke_api_token": ["swd_Q7mZk2LwXy9"],
    "seed_ledger": ["--rows", "10"],
    "submit_swarm": ["docs/examples/market-brief.yaml", "--tenant", "acme"],
}


@pytest.fixture(scope="module")
def empty_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database without a table; its URL."""
    name = f"{connection.settings_dict['NAME']}_empty"
    with django_db_blocker.unblock():
        _admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        _admin(f'CREATE DATABASE "{name}"')
        yield urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl()
        _admin(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize("name", sorted(set(ours()) - NEED_NO_DATABASE - STAY))
@pytest.mark.parametrize("state", ["unmigrated", "unreachable"])
def test_a_database_that_is_not_migrated_or_not_there_is_one_clear_line(
    name: str, state: str, empty_database: str, django_db_blocker: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = urlsplit(empty_database)._replace(path="/no_such_database").geturl()
    used = database_in_use(empty_database if state == "unmigrated" else nowhere)
    with django_db_blocker.unblock(), used, pytest.raises(SystemExit) as ended:
        command(name).run_from_argv(["manage.py", name, *ARGUMENTS.get(name, [])])
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Dry run")]
    assert (ended.value.code, len(told)) == (2, 1), told
    words = "is not migrated" if state == "unmigrated" else "cannot be reached"
    assert told[0].startswith(f"{name}: ")
    assert words in told[0]


def test_an_unknown_command_is_refused() -> None:
    done = manage("juggle")
    assert done.returncode != 0
    assert "Unknown command: 'juggle'" in done.stderr
    assert "Traceback" not in done.stderr
