"""Pages, reports and files about money over a long history: 10,000,000 ledger entries, 200 tenants, one year.

``python -m tests.bench.finance [--rows N] [--only PARTS] [--json]`` seeds a ledger in a PostgreSQL of its own and
compares its roll-ups with it, then asks a real daphne for the report, the ledger and the API's report (as finance of
the largest tenant and of an average one, and as an admin of all tenants) and prints p50 and p95 of each.
A FOCUS file of a million entries (or of ``--rows``, if these are fewer) follows; that month, and those of the largest
tenant, are closed.
The part ``events`` (tests.bench.external) is only run when asked for.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.bench import exports
from tests.bench.external import web
from tests.bench.setting import ROOT, Setting, pss_mb, setting

ROUNDS = 12
FOCUS_ROWS = 1_000_000
TARGETS_MS = {"report page": 200, "ledger page": 200, "API report": 100}
"""What 95 of 100 requests are to stay below, at full size."""
TARGET_FOCUS_S, TARGET_CLOSE_S, TARGET_EVENTS_A_MINUTE = 60, 10, 50_000
PARTS = ("seed", "verify", "pages", "focus", "close", "events")


@dataclass
class Figures:
    """How long one kind of request took, in milliseconds, over ``n`` requests; the slowest one's address.

    ``target_ms`` is for the p95; None where there is none.
    """

    name: str
    n: int
    p50_ms: float
    p95_ms: float
    slowest: str
    target_ms: int | None = None


@dataclass
class Closing:
    """A month of a tenant that was closed."""

    tenant: str
    period: str
    entries: int
    lines: int
    seconds: float


@dataclass
class Findings:
    """Everything measured. Seconds, and megabytes of memory."""

    rows: int
    seed_s: float = 0.0
    verified_s: float = 0.0
    requests: list[Figures] = field(default_factory=list)
    web_pss_mb: float = 0.0
    focus: exports.Figure | None = None
    closings: list[Closing] = field(default_factory=list)
    events: dict[str, Any] = field(default_factory=dict)


def yesterday() -> dt.date:
    return dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)


def seed(rows: int) -> float:
    from django.core.management import call_command

    began = time.monotonic()
    call_command("seed_ledger", rows=rows, stdout=sys.stderr)
    return time.monotonic() - began


def verify() -> float:
    """Compares all roll-ups with the ledger; seconds. Raises RuntimeError when they differ."""
    from apps.costs import consistency

    began = time.monotonic()
    if gaps := consistency.rollups_differ_from_ledger():
        raise RuntimeError(f"roll-ups differ from the ledger: {gaps[:3]}")
    return round(time.monotonic() - began, 1)


def average_tenant() -> Any:
    """The tenant whose number of entries is the closest to the average."""
    from django.db.models import Avg, Sum

    from apps.costs.models import DayTotal
    from apps.tenants.models import Tenant

    sizes = DayTotal.objects.values("tenant_id").annotate(size=Sum("entries"))
    average = sizes.aggregate(average=Avg("size"))["average"]
    closest = min(sizes, key=lambda row: abs(row["size"] - average))
    return Tenant.objects.get(pk=closest["tenant_id"])


def askers() -> dict[str, tuple[dict[str, str], dict[str, str], str]]:
    """Who asks: headers of a browser's session and of an API client, and a tenant's slug, by name."""
    from django.test import Client

    from apps.audit.trail import Actor
    from apps.tenants.actions import create_token
    from apps.tenants.models import Membership, Tenant, User
    from apps.tenants.roles import Role

    found = {}
    tenants = {
        "largest": Tenant.objects.get(slug="seeded-0001"),
        "average": average_tenant(),
        "all": None,
    }
    for name, tenant in tenants.items():
        user = User.objects.create(username=f"finance-{name}", is_staff=True, is_superuser=tenant is None)
        if tenant:
            Membership.objects.create(user=user, tenant=tenant, role=Role.FINANCE)
        client = Client()
        client.force_login(user)
        session = {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}
        api = session
        if tenant:
            _, text = create_token(user, tenant, life=dt.timedelta(days=1), by=Actor("system", "bench"))
            api = {"Authorization": f"Bearer {text}"}
        found[name] = (session, api, tenant.slug if tenant else "seeded-0001")
    return found


def questions(slug: str) -> dict[str, list[str]]:
    """The addresses that are asked for, by what they are; a draft is that of the tenant with this slug."""
    from django.urls import reverse

    last = yesterday()
    month, quarter, year = (last - dt.timedelta(days=days - 1) for days in (30, 91, 365))
    spans = [f"from={month}&to={last}"] * 3 + [f"from={quarter}&to={last}", f"from={year}&to={last}"]
    report, ledger = reverse("admin:costs_report"), reverse("admin:costs_ledgerentry_changelist")
    by = ("model", "user", "swarm", "agent", "kind")
    old = last - dt.timedelta(days=200)
    return {
        "report page": [
            f"{report}?period=this_month",
            *(f"{report}?period=custom&{span}&by={each}" for span, each in zip(spans, by, strict=True)),
        ],
        "ledger page": [
            f"{ledger}?period=this_month",
            f"{ledger}?period=last_month&kind=storage",
            f"{ledger}?period=custom&from={month}&to={last}&model=openai:gpt-4.1",
            f"{ledger}?period=custom&from={year}&to={last}&agent=coder&model=simulated:small",
            f"{ledger}?period=custom&from={old}&to={old}",
            f"{ledger}?period=any_time&unsettled=yes",
        ],
        "statements": [reverse("admin:costs_statement_changelist")],
        "a draft": [reverse("admin:costs_statement_page", args=[slug, f"{last:%Y-%m}"])],
        "API report": [
            "/api/v1/costs/report/",
            *(f"/api/v1/costs/report/?{span}&group_by={each}" for span, each in zip(spans, by, strict=True)),
        ],
        "API ledger": [
            "/api/v1/costs/ledger/",
            f"/api/v1/costs/ledger/?from={month}&to={last}&kind=storage",
            f"/api/v1/costs/ledger/?from={year}&agent=coder&model=simulated:small&page_size=200",
            f"/api/v1/costs/ledger/?from={old}&to={old}",
        ],
    }


def get(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> float:
    """Milliseconds until the whole answer is there."""
    began = time.perf_counter()
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1e3
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {body[:300]!r}")
    return took


def measure_pages(place: Setting, found: Findings) -> None:
    who = askers()
    with web(place) as (address, process):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        for name, (session, api, slug) in who.items():
            for kind, paths in questions(slug).items():
                headers = api if kind.startswith("API") else session
                took: list[tuple[float, str]] = []
                for turn in range(ROUNDS):
                    # The first round warms code and caches up.
                    took += [(get(connection, path, headers), path) for path in paths] if turn else []
                    for path in paths if not turn else ():
                        get(connection, path, headers)
                times = sorted(took)
                found.requests.append(
                    Figures(
                        f"{kind}, {name}",
                        len(times),
                        times[len(times) // 2][0],
                        times[int(len(times) * 0.95)][0],
                        times[-1][1],
                        TARGETS_MS.get(kind),
                    )
                )
                tell(found.requests[-1])
        found.web_pss_mb = pss_mb([process.pid])


def measure_focus(place: Setting, found: Findings) -> None:
    """A FOCUS file of a tenant with a million entries in a month; tests.bench.exports has the other formats."""
    rows = min(FOCUS_ROWS, found.rows)
    exports.seed(rows, "exported")
    found.focus, file = exports.measure(place, "exported", rows, "focus")
    file.unlink()


def measure_closings(found: Findings) -> None:
    """Every month of the largest tenant that can be closed, in order, and the one of a million entries."""
    from django.utils import timezone

    from apps.costs.periods import first_open_month, last_statement
    from apps.costs.statements import can_close, close
    from apps.tenants.access import principal_of_command
    from apps.tenants.models import Tenant

    by = principal_of_command("bench")
    logging.disable(logging.INFO)  # what is printed is the findings
    for tenant in Tenant.objects.filter(slug__in=["exported", "seeded-0001"]).order_by("slug"):
        while (month := first_open_month(tenant, last_statement(tenant.pk))) is not None:
            if not can_close(tenant, month, now=timezone.now()):
                break
            began = time.monotonic()
            statement = close(tenant, month, by=by, now=timezone.now())
            seconds = round(time.monotonic() - began, 2)
            done = Closing(tenant.slug, statement.period, statement.entries, statement.lines.count(), seconds)
            found.closings.append(done)


def measure_events(found: Findings) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.external", "--json"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found.events = json.loads(done.stdout)


def tell(figures: Figures) -> None:
    line = f"{figures.name:24} {figures.n:4} requests  p50 {figures.p50_ms:7.1f} ms  p95 {figures.p95_ms:7.1f} ms"
    print(f"{line}  slowest {figures.slowest}", file=sys.stderr, flush=True)


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Says on stderr how long a part took."""
    began = time.monotonic()
    yield
    print(f"-- {what}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def judged(met: bool, target: str) -> str:
    return f"  {'meets' if met else 'MISSES'} {target}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="Ledger entries (default: %(default)s).")
    parser.add_argument("--only", default=",".join(PARTS[:-1]), help="Parts, with commas (default: %(default)s).")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found = Findings(options.rows)
    with setting() as place:
        with noted("seed"):
            found.seed_s = round(seed(options.rows), 1)
        if "verify" in parts:
            with noted("verify"):
                found.verified_s = verify()
        if "pages" in parts:
            with noted("pages"):
                measure_pages(place, found)
        if "focus" in parts:
            with noted("FOCUS"):
                measure_focus(place, found)
        if "close" in parts:
            with noted("close"):
                measure_closings(found)
    if "events" in parts:
        with noted("events"):
            measure_events(found)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(f"{found.rows:,} entries, seeded and rolled up in {found.seed_s:.0f} s")
    print(f"compared with the ledger in {found.verified_s:.0f} s: equal" if found.verified_s else "not compared")
    for figures in found.requests:
        line = f"{figures.name:24} p50 {figures.p50_ms:7.1f} ms  p95 {figures.p95_ms:7.1f} ms  ({figures.n} requests)"
        target = figures.target_ms
        print(line + (judged(figures.p95_ms < target, f"{target} ms") if target else ""))
    if found.web_pss_mb:
        print(f"memory of the web process: {found.web_pss_mb:.0f} MB")
    if found.focus:
        figure = found.focus
        line = f"FOCUS: {figure.entries:,} entries in {figure.seconds:.1f} s, {figure.peak_mb:.0f} MB of memory at most"
        print(line + judged(figure.seconds < TARGET_FOCUS_S, f"{TARGET_FOCUS_S} s"))
    for each in found.closings:
        lines = f"{each.entries:,} entries in {each.lines:,} lines"
        met = judged(each.seconds < TARGET_CLOSE_S, f"{TARGET_CLOSE_S} s")
        print(f"closed {each.tenant}, {each.period}: {lines}, {each.seconds:.2f} s{met}")
    if found.events:
        line = "external events: " + ", ".join(f"{name} {value}" for name, value in found.events.items())
        print(
            line + judged(found.events["per_minute"] >= TARGET_EVENTS_A_MINUTE, f"{TARGET_EVENTS_A_MINUTE:,} a minute")
        )


if __name__ == "__main__":
    main()
