"""Which events become deliveries of which webhooks, and what is told of each."""

from __future__ import annotations

import ast
import datetime as dt
import json
import re
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import OrmQ
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.events import log as event_log
from apps.events.models import Event
from apps.swarms.models import SwarmStatus, TaskStatus
from apps.tenants.models import Tenant
from apps.webhooks import handing_out
from apps.webhooks.actions import disable_webhook
from apps.webhooks.kinds import KINDS, LARGEST_BODY, PLATFORM, body_of
from apps.webhooks.models import Delivery, Webhook
from apps.webhooks.policies import Lanes
from apps.webhooks.sending import claim
from tests.processes import ROOT
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import BY, due, happened, hook_of

pytestmark = pytest.mark.django_db
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
HERE = "http://127.0.0.1:9/hooks"


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]


@pytest.fixture
def hook(acme: Tenant) -> Webhook:
    return hook_of(acme, HERE)


def all_of_log(now: dt.datetime | None = None) -> int:
    """Makes deliveries of every event, in one transaction with the test's own, which a reader would not see yet."""
    return handing_out.make_deliveries(list(Event.objects.order_by("pk")), now=now or timezone.now())


HANDED_ON = {"apps/costs/actions.py", "apps/webhooks/actions.py"}
"""Where a kind of a tenant's event is given to a function of the module, by name (``_write_down``, ``_tell``)."""


_IN_SQL = re.compile(r"'([a-z_]+\.[a-z_]*)'( \|\| \w+)? AS kind")


def _emitted() -> set[str]:
    """Every kind of a tenant's event that is written in the source; a ``*`` where a status or a verb goes in.

    Those of whole batches are written in SQL, as ``'task.ready' AS kind``. Events of no tenant need no line: no webhook
    gets them.
    """
    found: set[str] = set()
    for path in (ROOT / "apps").glob("*/**/*.py"):
        text = path.read_text()
        if not any(word in text for word in ("NewEvent", "_write_down", "_tell", "AS kind")):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {kind + "*" * bool(more) for kind, more in _IN_SQL.findall(node.value)}
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            match node.args[0]:
                case ast.Constant(value=str(kind)) if name in ("NewEvent", "_write_down", "_tell") and "." in kind:
                    found.add(kind)
                case ast.JoinedStr(values=parts) if name == "NewEvent":
                    found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in parts))
                case ast.Constant():
                    pass
                case _ if name == "NewEvent":
                    of_a_tenant = len(node.args) > 1 or any(each.arg == "tenant_id" for each in node.keywords)
                    assert not of_a_tenant or str(path.relative_to(ROOT)) in HANDED_ON, (
                        f"{path}:{node.lineno} names no kind"
                    )
    return found


def test_every_kind_of_event_is_known_to_webhooks_or_kept_from_them() -> None:
    """A new kind of event fails here until it has its line in ``apps/webhooks/kinds.py``."""
    patterns = {
        "swarm.*": SwarmStatus.values,
        "task.*": TaskStatus.values,
        "cost_centre.*d": ("create", "change", "delete"),
    }
    found: set[str] = set()
    for kind in _emitted():
        if "*" in kind:
            found |= {kind.replace("*", str(value)) for value in patterns[kind]}
        else:
            found.add(kind)
    assert len(found) > 25
    assert found == KINDS.keys() | PLATFORM
    assert not KINDS.keys() & PLATFORM


def test_the_reference_page_has_every_kind_with_what_it_tells() -> None:
    rows = []
    for kind, known in KINDS.items():
        told = ", ".join(f"`{fact}`" for fact in (*known.facts, *known.money.values()))
        rows.append(f"| `{kind}` | {known.about} | {told} |")
    page = (ROOT / "docs/reference/webhook-events.md").read_text()
    assert "\n".join(rows) in page, "put this into docs/reference/webhook-events.md:\n" + "\n".join(rows)


def test_a_body_has_ids_and_numbers_and_nothing_that_people_wrote() -> None:
    swarm_id = "019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11"
    event = Event(
        pk=7,
        at=NOW,
        kind="swarm.terminated",
        swarm_id=swarm_id,
        data={"reason": "Jane Doe asked for it", "cancelled": 3, "in_flight": 0},
    )
    assert json.loads(body_of(event, "acme")) == {
        "type": "swarm.terminated",
        "timestamp": "2026-11-21T12:00:00Z",
        "data": {"event_id": 7, "tenant": "acme", "swarm_id": swarm_id, "cancelled": 3, "in_flight": 0},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), values=st.lists(JSON, min_size=6, max_size=6))
def test_no_event_however_odd_stops_the_reader(kind: str, values: list[Any]) -> None:
    names = [*KINDS[kind].facts, *KINDS[kind].money, "reason"]
    body = body_of(Event(pk=1, at=NOW, kind=kind, data=dict(zip(names, values, strict=False))), "acme")
    told = json.loads(body)
    assert told.keys() == {"type", "timestamp", "data"}
    assert told["data"].keys() <= {"event_id", "tenant", *KINDS[kind].facts, *KINDS[kind].money.values()}


def test_money_is_told_in_usd() -> None:
    data = {"budget": "All of Jane", "budget_id": "b", "period": "2026-11", "owed": 41_210_000_125, "limit": 50 * 10**9}
    told = json.loads(body_of(Event(pk=1, at=NOW, kind="budget.alert", data={"level": 80, **data}), "acme"))["data"]
    assert told["owed_usd"] == "41.210000125"
    assert told["limit_usd"] == "50.00"
    assert told["level"] == 80
    assert "budget" not in told


def test_no_body_is_larger_than_receivers_take() -> None:
    event = Event(pk=1, at=NOW, kind="budget.created", data={"budget_id": "b", "scope": "x" * LARGEST_BODY})
    body = body_of(event, "acme")
    assert len(body.encode()) < LARGEST_BODY
    assert json.loads(body)["data"] == {"event_id": 1, "tenant": "acme", "truncated": True}


def test_each_webhook_gets_what_it_asked_for_of_its_own_tenant(acme: Tenant, rival: Tenant) -> None:
    everything = hook_of(acme, HERE, "everything")
    some = hook_of(acme, HERE, "some", ("swarm.succeeded",))
    theirs = hook_of(rival, HERE, "theirs")
    off = hook_of(acme, HERE, "off")
    disable_webhook(off, by=BY)
    Event.objects.all().delete()
    happened(acme, "swarm.succeeded")
    happened(acme, "task.failed", data={"code": "agent_error"})
    happened(rival, "swarm.failed")
    event_log.emit([event_log.NewEvent("watchdog.failed")])
    all_of_log()
    made = set(Delivery.objects.values_list("webhook__name", "kind"))
    assert made == {
        ("everything", "swarm.succeeded"),
        ("everything", "task.failed"),
        ("some", "swarm.succeeded"),
        ("theirs", "swarm.failed"),
    }
    assert {d.tenant_id for d in Delivery.objects.filter(webhook__in=[everything, some])} == {acme.pk}
    assert theirs.deliveries.get().tenant_id == rival.pk
    assert all_of_log() >= 0
    assert Delivery.objects.count() == 4, "an event seen again makes nothing twice"


def test_what_happened_before_a_webhook_was_made_is_not_told(acme: Tenant) -> None:
    event_log.emit([event_log.NewEvent("swarm.failed", acme.pk)], now=timezone.now() - dt.timedelta(hours=1))
    hook_of(acme, HERE)
    all_of_log()
    assert not Delivery.objects.exists()


def test_somebody_is_sent_for_once_for_what_is_due(hook: Webhook) -> None:
    caller = handing_out.Caller()
    second = dt.timedelta(seconds=1)
    due(hook, 2, at=NOW)
    assert caller.call(now=NOW)
    assert not caller.call(now=NOW + second), "it has not come yet"
    claim(now=NOW + second, lanes=Lanes(), room=10, failing_room=1)
    assert not caller.call(now=NOW + 2 * second), "all is taken"
    due(hook, 1, at=NOW + 2 * second)
    assert caller.call(now=NOW + 2 * second), "that one is new"
    assert not caller.call(now=NOW + 3 * second)
    assert caller.call(now=NOW + 2 * second + handing_out.ASKED_AGAIN_AFTER), "it is taken for lost"
    jobs = [job.task for job in OrmQ.objects.all()]
    assert [job["func"] for job in jobs] == [handing_out.SEND] * 3
    assert {job["cluster"] for job in jobs} == {"ops"}
