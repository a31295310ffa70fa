"""The page for receivers is true: its commands make a webhook, and its snippet verifies what is really delivered."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from apps.audit.trail import Actor
from apps.events.models import Event
from apps.tenants.actions import create_token
from apps.tenants.models import Tenant, User
from apps.webhooks import handing_out
from apps.webhooks.actions import rotate_secret
from apps.webhooks.models import OVERLAP, Webhook
from apps.webhooks.policies import BACKOFF, ENDURANCE, LANES
from apps.webhooks.sending import Sender
from tests.browser import ROOT, Daphne, db, web, web_of_module
from tests.test_docs import fences
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import BY, happened, receiver

__all__ = ["db", "web", "web_of_module"]

PAGE = ROOT / "docs" / "how-to" / "receive-webhooks.md"


@pytest.fixture
def verified() -> Callable[..., Any]:
    """The function of the page."""
    (program,) = [fence.text for fence in fences(PAGE) if fence.language == "python"]
    names: dict[str, Any] = {}
    exec(compile(program, PAGE.name, "exec"), names)
    found: Callable[..., Any] = names["verified"]
    return found


@pytest.mark.processes
def test_the_page_for_receivers(
    web: Daphne, acme: Tenant, developer: User, verified: Callable[..., Any], tmp_path: Path, settings: Any
) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]
    _, token = create_token(
        developer, acme, permissions=["webhook:manage"], life=dt.timedelta(days=1), by=Actor("system", "test")
    )
    with receiver() as here:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOKEN": token,
            "DESK": web.url,
            "RECEIVER": here.url,
            "HOME": str(tmp_path),
        }
        script = "\n".join(fence.text for fence in fences(PAGE) if fence.language == "bash") + '\necho; echo "$SECRET"'
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        first = done.stdout.splitlines()[-1]
        hook = Webhook.objects.get()
        assert hook.kinds == ["budget.alert", "swarm.succeeded"]
        _, second = rotate_secret(hook, by=BY)
        Event.objects.all().delete()
        happened(acme, "swarm.succeeded")
        happened(acme, "swarm.failed")  # which it did not ask for
        handing_out.make_deliveries(list(Event.objects.all()), now=timezone.now())
        assert async_to_sync(Sender().run)() == 2
    ping, event = sorted(here.received, key=lambda request: b"ping" not in request.body)
    assert verified(first, ping.headers, ping.body)["type"] == "webhook.ping"
    for secret in (first, second):
        assert verified(secret, event.headers, event.body)["data"]["tenant"] == "acme"
    sent = int(event.headers["webhook-timestamp"])
    for problem, secret, headers, body, now in (
        ("wrong signature", "whsec_" + "A" * 43 + "=", event.headers, event.body, sent),
        ("wrong signature", first, event.headers, event.body + b" ", sent),
        ("wrong signature", first, {**event.headers, "webhook-id": "another"}, event.body, sent),
        ("wrong signature", first, {**event.headers, "webhook-timestamp": str(sent + 1)}, event.body, sent),
        ("too old", first, event.headers, event.body, sent + 301),
    ):
        with pytest.raises(ValueError, match=problem):
            verified(secret, headers, body, now)


def test_the_numbers_of_the_page_are_those_of_the_policies() -> None:
    text = PAGE.read_text()
    waits = [BACKOFF.wait_s(n, roll=0.0) or 0 for n in range(1, BACKOFF.attempts)]

    def told(seconds: float) -> str:
        if seconds < 300:
            return f"{seconds:g} s"
        return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600, 1):g} h"

    *most, last = [told(seconds) for seconds in waits]
    assert f"after {', '.join(most)} and {last}, each" in " ".join(text.split())
    assert ENDURANCE.lasting.days == 5
    assert f"failed for five days, {ENDURANCE.attempts} of them" in text
    assert (LANES.each, OVERLAP) == (8, dt.timedelta(days=1))
