"""Exporting a month: seconds, and the memory it takes, for a tenth of the entries and for all of them.

``python -m tests.bench.exports [--rows N] [--only FORMATS] [--json]`` writes calls of one tenant into a PostgreSQL
of its own, exports their month by command in each format, and adds the FOCUS file up.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

from tests.bench.setting import ROOT, Setting, setting

FORMATS = ("focus", "csv", "xlsx")
MONTH = "2026-10"
START = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)

_SEED = """
    INSERT INTO costs_ledgerentry (at, tenant_id, subject_id, swarm_id, task_id, attempt_id, reservation_id, agent,
        kind, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, input_per_mtok,
        output_per_mtok, cache_read_per_mtok, cache_write_per_mtok, amount, unsettled, period_ids, external_id, run,
        note)
    SELECT c.*, ceil(((c.input - c.read)::numeric * 2500000000 + c.output::numeric * 10000000000
        + c.read::numeric * 1250000000) / 1000000), false, '{}', '', '', ''
    FROM (
        SELECT %(start)s + n * interval '30 days' / %(rows)s, %(tenant)s::uuid, md5((n %% 5000)::text)::uuid,
            md5((n / 50)::text)::uuid, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'agent-' || n %% 20,
            'llm', 'openai:model-' || n %% 7, 500 + n %% 3000 AS input, 50 + n %% 500 AS output,
            CASE WHEN n %% 2 = 0 THEN 400 ELSE 0 END AS read, 0, 2500000000, 10000000000, 1250000000, 2500000000
        FROM generate_series(0, %(rows)s - 1) n
    ) c
"""


@dataclass
class Figure:
    """One export. ``peak_mb`` is the most memory that its process held."""

    format: str
    entries: int
    seconds: float
    megabytes: float
    peak_mb: float


def seed(rows: int, slug: str) -> None:
    from django.db import connection

    from apps.tenants.models import Tenant

    tenant = Tenant.objects.create(slug=slug, name=slug)
    with connection.cursor() as cursor:
        cursor.execute(_SEED, {"rows": rows, "start": START, "tenant": tenant.pk})
        cursor.execute("ANALYZE costs_ledgerentry")


def most_held_mb(pid: int) -> float:
    """The most memory that a process has held so far; 0 when it has ended.

    What ``wait4`` says afterwards is no less than what this process held when it started the other.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def measure(place: Setting, slug: str, entries: int, format: str) -> tuple[Figure, Path]:
    """Exports by command, as a person does."""
    file = place.directory / f"{slug}.{format}"
    command = ["manage.py", "export_chargeback", "--tenant", slug, "--period", MONTH, "--format", format]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command, "--output", str(file)], cwd=ROOT, env=place.environment, stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, most_held_mb(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the export ended with {process.returncode}")
    seconds = time.monotonic() - began
    return Figure(format, entries, round(seconds, 1), file.stat().st_size / 1e6, peak), file


def verify(file: Path, slug: str) -> int:
    """How many rows it has. Raises RuntimeError unless they add up to the ledger."""
    from apps.costs.models import LedgerEntry
    from apps.tenants.models import Tenant

    tenant = Tenant.objects.get(slug=slug)
    owed = LedgerEntry.objects.filter(tenant_id=tenant.pk).spent_between(START, START + dt.timedelta(days=31))
    rows, total = 0, Decimal(0)
    with file.open(newline="") as text:
        for row in csv.reader(text):
            if rows:
                total += Decimal(row[0])
            rows += 1
    if total != Decimal(owed).scaleb(-9):
        raise RuntimeError(f"the file adds up to {total}, the ledger to {owed} nano-dollars")
    return rows - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="Ledger entries (default: %(default)s).")
    parser.add_argument("--only", default=",".join(FORMATS), help="Formats, with commas (default: %(default)s).")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    options = parser.parse_args()
    figures = []
    with setting() as place:
        for slug, entries in (("tenth", options.rows // 10), ("whole", options.rows)):
            seed(entries, slug)
            for format in options.only.split(","):
                figure, file = measure(place, slug, entries, format)
                figures.append(figure)
                if format == "focus":
                    print(f"{verify(file, slug):,} rows of FOCUS add up to the ledger", file=sys.stderr)
                file.unlink()
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return
    for each in figures:
        print(
            f"{each.format:6} {each.entries:>10,} entries {each.seconds:7.1f} s {each.megabytes:9.1f} MB"
            f"  memory {each.peak_mb:5.0f} MB"
        )


if __name__ == "__main__":
    main()
