"""The base of every command of ours, and the way manage.py ends: one clear line and exit 2, never a traceback."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import psycopg
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser, SystemCheckError
from django.db import ProgrammingError

from portal.database.errors import DatabaseUnavailable

EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
ENDS_WITHIN_S = 20
"""A command that is told to end and does not is ended by the system after this."""


class Command(BaseCommand):
    """Refusals are one line on stderr and exit 2; Ctrl-C is silent and exit 130.

    A command names the exceptions of its domain that are refusals, not faults, in ``refusals``: their text is shown
    as it is. CommandError (exit 2 unless it says otherwise), ValidationError, and a database that cannot be reached or
    is not migrated always are.
    """

    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    # The settings were checked before any command (``main``); the other checks import every page, for nothing.
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        if getattr(self, "_called_from_command_line", False):

            def error(message: str) -> NoReturn:
                refuse(subcommand, f"{message} (see manage.py {subcommand} --help)")

            parser.error = error  # type: ignore[method-assign]
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except SystemCheckError:
            raise
        except CommandError as error:
            if error.returncode == 1:
                error.returncode = EXIT_REFUSED
            raise
        except ValidationError as error:
            raise CommandError(" ".join(error.messages), returncode=EXIT_REFUSED) from error
        except ProgrammingError as error:
            # Only what the database lacks as a whole; any other is a fault of ours.
            if isinstance(error.__cause__, (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)):
                what = str(error).splitlines()[0]
                text = f"The database is not migrated ({what}): run manage.py migrate, then this again."
                raise CommandError(text, returncode=EXIT_REFUSED) from error
            raise
        except Exception as error:
            if isinstance(error, (DatabaseUnavailable, *self.refusals)):
                raise CommandError(str(error), returncode=EXIT_REFUSED) from error
            raise

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            # With --traceback Django leaves the error to its caller, which writes it in our way here.
            super().run_from_argv([*argv[:2], "--traceback", *argv[2:]])
        except SystemCheckError as error:
            refuse(argv[1], *(line for line in str(error).splitlines() if line.strip()))
        except CommandError as error:
            if "--traceback" in argv:
                raise
            refuse(argv[1], str(error), code=error.returncode)


class WetRunMixin(BaseCommand):
    """For commands that change much: they only tell what they would do unless ``--wet-run`` is given."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--wet-run", action="store_true", help="Do it. Without this, only tell what would be done.")

    def execute(self, *args: Any, **options: Any) -> str | None:
        output = super().execute(*args, **options)
        if not options["wet_run"]:
            self.stderr.write("Dry run: nothing was changed. Add --wet-run to do it.", self.style.WARNING)
        return output


def refuse(command: str, *lines: str, code: int = EXIT_REFUSED) -> NoReturn:
    """Ends the process with ``lines`` on stderr, each after the name of the command."""
    for line in lines:
        sys.stderr.write(f"{command}: {line}\n")
    sys.stderr.flush()
    raise SystemExit(code)


def main(argv: Sequence[str]) -> None:
    """What manage.py does: every command, ours or Django's, tells a cause outside the code in one line."""
    import django
    from django.core.management import execute_from_command_line

    name = argv[1] if len(argv) > 1 else "help"
    # A command that is told to end still runs its exits: the embedded database stops with its last user.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        django.setup()
        if name not in {"help", "check", "--help", "-h", "--version"} and "--help" not in argv:
            refuse_bad_environment(name)
        gc.freeze()
        gc.enable()
        execute_from_command_line(list(argv))
    except DatabaseUnavailable as error:
        refuse(name, str(error))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_REFUSED) from None


def _terminated(*_: object) -> NoReturn:
    # Raised in a destructor or a callback it would be ignored, and who sent the signal sends one only.
    signal.alarm(ENDS_WITHIN_S)
    raise SystemExit(EXIT_TERMINATED)


def refuse_bad_environment(name: str) -> None:
    """Ends the process, with all that is wrong with its environment, when that does not do."""
    from portal import checks

    problems = [
        *checks.environment_is_readable(),
        *checks.secrets_are_set(),
        *checks.server_is_safe(),
        *checks.secrets_backend_is_complete(),
    ]
    if name == "web":
        problems += checks.proxies_are_named(sys.argv)
    if problems:
        refuse(name, *(f"{problem.msg} {problem.hint}" if problem.hint else problem.msg for problem in problems))
