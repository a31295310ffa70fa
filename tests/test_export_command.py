"""``manage.py export_chargeback``: files that are whole or not there, and refusals in one line. # C7"""

from __future__ import annotations

import datetime as dt
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from apps.costs.management.commands.export_chargeback import Command
from apps.tenants.models import Tenant
from portal.files import replacing
from tests.focus import billed, violations
from tests.statements import october_of, one_of_each, owed, rows_of
from tests.workbooks import sheets_of

NOVEMBER = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def export(output: Path | str, format: str = "focus", period: str = "2026-10", tenant: str = "acme") -> tuple[str, str]:
    """What the command says, on standard output and on standard error."""
    said, warned = io.StringIO(), io.StringIO()
    command = Command(now=lambda: NOVEMBER, stdout=said, stderr=warned)
    call_command(command, tenant=tenant, period=period, format=format, output=str(output))
    return said.getvalue(), warned.getvalue()


def refusal(*args: str, **kwargs: str) -> str:
    with pytest.raises(CommandError) as refused:
        export(*args, **kwargs)
    assert refused.value.returncode == 2
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_focus_file_conforms_and_adds_up(acme: Tenant, tmp_path: Path) -> None:
    one_of_each(acme)
    said, _ = export(tmp_path / "october.csv")
    text = (tmp_path / "october.csv").read_text()
    october = october_of(acme)
    assert violations(text) == []
    assert billed(text) == owed(acme, october.starts_at, october.ends_at)
    assert said == f"{tmp_path / 'october.csv'}: {len(text.encode()):,} bytes.\n"


def test_the_other_formats(acme: Tenant, tmp_path: Path) -> None:
    one_of_each(acme)
    export(tmp_path / "october.csv", "csv")
    export(tmp_path / "october.xlsx", "xlsx")
    assert rows_of((tmp_path / "october.csv").read_text())[-1]["Cost centre"] == "Total (draft)"
    assert "Summary" in sheets_of((tmp_path / "october.xlsx").read_bytes())


def test_a_month_that_is_not_closed_is_said_to_be_a_draft(acme: Tenant, tmp_path: Path) -> None:
    for format, name in (("csv", "acme-2026-10-draft.csv"), ("focus", "acme-2026-10-draft-focus.csv")):
        _, warned = export(tmp_path, format)
        assert "draft" in warned
        assert (tmp_path / name).is_file()


def test_a_file_has_the_rights_of_a_new_file(acme: Tenant, tmp_path: Path) -> None:
    export(tmp_path / "october.csv")
    (tmp_path / "other").touch()
    mode = stat.S_IMODE((tmp_path / "october.csv").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("period", ["2026-13", "2026-1", "October", "0000-01", "9999-12", "2026-10-01", "٢٠٢٦-10", ""])
def test_what_is_no_month_is_refused(acme: Tenant, tmp_path: Path, period: str) -> None:
    assert "is not a month such as 2026-10" in refusal(str(tmp_path / "x"), period=period)


def test_a_month_to_come_is_refused(acme: Tenant, tmp_path: Path) -> None:
    assert "has not begun for acme" in refusal(str(tmp_path / "x"), period="2026-12")


def test_an_unknown_tenant_is_refused_and_the_known_ones_are_named(acme: Tenant, rival: Tenant, tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "x"), tenant="acmee") == "No tenant 'acmee'. Tenants: acme, rival."


def test_a_place_that_cannot_be_written_is_refused(acme: Tenant, tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(str(tmp_path / "no" / "x.csv"))
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(str(tmp_path / "file" / "x.csv"))


class Interrupted(Command):
    """Is ended after a few pieces."""

    def _pieces(self, *args: object) -> Iterator[bytes]:
        yield b"half of "
        raise KeyboardInterrupt


def test_a_run_that_is_broken_off_leaves_what_was_there(acme: Tenant, tmp_path: Path) -> None:
    target = tmp_path / "october.csv"
    target.write_text("yesterday's")
    with pytest.raises(KeyboardInterrupt):
        call_command(
            Interrupted(now=lambda: NOVEMBER), tenant="acme", period="2026-10", format="csv", output=str(target)
        )
    assert target.read_text() == "yesterday's"
    assert os.listdir(tmp_path) == ["october.csv"]


def test_a_killed_process_leaves_no_half_file_under_the_name(tmp_path: Path) -> None:
    target = tmp_path / "october.csv"
    child = os.fork()
    if child == 0:
        with replacing(target) as file:
            file.write(b"half")
            file.flush()
            os._exit(137)
    os.waitpid(child, 0)
    assert not target.exists()


def test_long_work_tells_how_far_it_is(acme: Tenant, tmp_path: Path) -> None:
    one_of_each(acme)
    times = iter(range(0, 1000, 6))
    warned = io.StringIO()
    command = Command(now=lambda: NOVEMBER, clock=lambda: float(next(times)), stderr=warned, stdout=io.StringIO())
    call_command(command, tenant="acme", period="2026-10", format="focus", output=str(tmp_path / "x.csv"))
    assert "MB written" in warned.getvalue()
