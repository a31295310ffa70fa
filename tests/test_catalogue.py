"""The model catalogue: asked for once a day by one process that holds the key, shown, forgotten, and used to warn."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.providers import catalogue, invalidating
from apps.providers.catalogue import claim, fail, keep, unlisted
from apps.providers.clients import ModelClients
from apps.providers.directory import Endpoint
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Cache, CacheUsage, Catalogue, Provider, Region
from apps.providers.secrets.keeper import Keeper
from apps.swarms.models import AgentOverride, Swarm
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from tests.api_client import Caller
from tests.regions import make_provider
from tests.running import SimulatorProcess, run_until, simulator, wait_until
from tests.secret_backends import Memory
from tests.specs import BRIEF, simulated
from tests.swarms import simulated_provider
from tests.test_admin_regions import client_of, text_of

KEY = "sk-list-0001-d41d8cd98f00b204"
NOW = dt.datetime(2026, 11, 26, 9, tzinfo=dt.UTC)
QUARTER, DAY, SECOND = dt.timedelta(minutes=15), dt.timedelta(days=1), dt.timedelta(seconds=1)
BY = principal_of_command("test")


def claimed(now: dt.datetime, *held: str) -> list[str]:
    return [due.provider.name for due in claim(held, now=now)]


# -- when it is asked for ----------------------------------------------------------------------------------------------


@pytest.fixture
def provider(db: None) -> Provider:
    return make_provider("east", "west")


def test_a_list_is_asked_for_once_a_day_and_again_after_a_quarter_where_that_failed(provider: Provider) -> None:  # P6
    assert claimed(NOW) == ["simulated"]
    assert claimed(NOW) == [], "somebody is asking"
    # Whoever was asking died: nothing is lost but a quarter of an hour.
    assert claimed(NOW + QUARTER - SECOND) == []
    assert claimed(NOW + QUARTER) == ["simulated"]
    now = NOW + QUARTER
    keep(provider, ["small", "large", "small", "", "x" * 201, "line\nbreak"], now=now)
    row = Catalogue.objects.get()
    assert (row.names, row.fetched_at) == (["large", "small"], now)
    assert claimed(now + DAY - SECOND) == []
    assert claimed(now + DAY) == ["simulated"]
    fail(provider, f"It said: Authorization: Bearer {KEY}")
    row.refresh_from_db()
    assert (row.names, row.fetched_at) == (["large", "small"], now), "the list from before stays"
    assert row.error
    assert KEY not in row.error
    assert claimed(now + DAY + QUARTER - SECOND) == []
    assert claimed(now + DAY + QUARTER) == ["simulated"]
    keep(provider, ["small"], now=now + DAY + QUARTER)
    row.refresh_from_db()
    assert (row.names, row.error) == (["small"], "")


def test_an_order_makes_it_due_at_once(provider: Provider) -> None:
    claim([], now=NOW)
    keep(provider, ["small"], now=NOW)
    catalogue.order([provider], forget=False, by=BY, reason="New models.", now=NOW)
    assert Catalogue.objects.get().names == ["small"]
    assert claimed(NOW) == ["simulated"]
    assert invalidating.reload(Cache.CATALOGUE, "sim*", by=BY, reason="Wrong.", now=NOW) == ["simulated"]
    assert (Catalogue.objects.get().names, Catalogue.objects.names_of(["simulated"])) == ([], {})
    assert claimed(NOW) == ["simulated"]
    told = AuditEntry.objects.order_by("id").values_list("action", "reason")
    assert list(told) == [("catalogue:refresh", "New models."), ("cache:invalidate", "Wrong.")]


MAY_ASK = [
    # what is true of the provider and its regions; the keys held; whether it is asked
    ({}, {}, [], True),
    ({"secret_name": "A_KEY"}, {}, ["A_KEY"], True),
    ({"secret_name": "A_KEY"}, {}, ["B_KEY"], False),
    ({"is_enabled": False}, {}, [], False),
    ({}, {"is_enabled": False}, [], False),
    ({}, {"is_draining": True}, [], False),
]


@pytest.mark.parametrize(("its", "regions", "held", "asked"), MAY_ASK)
def test_only_who_holds_the_key_asks_and_only_what_can_be_asked(
    provider: Provider, its: dict[str, Any], regions: dict[str, Any], held: list[str], asked: bool
) -> None:  # P8
    Provider.objects.update(**its)
    Region.objects.update(**regions)
    assert bool(claim(held, now=NOW)) is asked


def test_nothing_due_is_one_query(provider: Provider, django_assert_num_queries: Any) -> None:
    claim([], now=NOW)
    with django_assert_num_queries(1):
        claim([], now=NOW)


def test_no_two_processes_ask_at_once(own_database: str) -> None:
    make_provider("east")

    def one(_: int) -> int:
        try:
            return len(claim([], now=NOW))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(one, range(12))) == 1


# -- how it is asked for -----------------------------------------------------------------------------------------------


class Peer(BaseHTTPRequestHandler):
    """Answers with what a test says, and notes what it was asked."""

    answers: list[tuple[int, bytes]]
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, body = self.answers.pop(0) if self.answers else (500, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "http://127.0.0.1:9/v1/models")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def names(kind: str, base_url: str, *answers: tuple[int, bytes]) -> list[str]:
    Peer.answers, Peer.asked = list(answers), []
    provider = Provider.objects.create(name="house", kind=kind, secret_name="HOUSE_KEY")
    keeper = Keeper("agents", backend=Memory({"HOUSE_KEY": KEY}))
    keeper.step()

    async def ask() -> list[str]:
        clients = ModelClients(keeper)
        try:
            return await clients.names(Endpoint("house", kind, "one", base_url, provider.secret_name))
        finally:
            await clients.aclose()

    return asyncio.run(ask())


def page(*names: str, **more: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"data": [{"id": name} for name in names], **more}).encode()


def test_openai_compatible_endpoints_are_asked_with_the_key(db: None, peer: str) -> None:
    odd = (200, b'{"data": [{"id": "a"}, {"id": 5}, "b", {"name": "c"}, {"id": "d"}]}')
    assert names("openai_compatible", f"{peer}/v1/", odd) == ["a", "d"]
    ((path, headers),) = Peer.asked
    assert (path, headers["authorization"]) == ("/v1/models", f"Bearer {KEY}")
    assert "anthropic-version" not in headers


@pytest.mark.parametrize("version", ["", "/v1", "/v1/"])
def test_anthropic_is_asked_page_by_page(db: None, peer: str, version: str) -> None:
    first = page("claude-a", "claude-b", has_more=True, last_id="claude-b")
    assert names("anthropic", f"{peer}{version}", first, page("claude-c", has_more=False)) == [
        "claude-a",
        "claude-b",
        "claude-c",
    ]
    asked = [urlsplit(path) for path, _ in Peer.asked]
    assert [each.path for each in asked] == ["/v1/models"] * 2
    assert [each.query for each in asked] == ["limit=1000", "limit=1000&after_id=claude-b"]
    for _, headers in Peer.asked:
        assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")


def test_a_provider_that_never_ends_its_pages_is_not_followed_for_ever(db: None, peer: str) -> None:
    endless = [page(f"m{number}", has_more=True, last_id="x") for number in range(30)]
    assert len(names("anthropic", peer, *endless)) == 20


WRONG = [
    ((401, b"{}"), "answered 401"),
    ((302, b""), "answered 302"),  # a key is sent nowhere else
    ((500, b""), "answered 500"),
    ((200, b"<html>"), "something other than a list"),
    ((200, b"[]"), "something other than a list"),
    ((200, b'{"data": {}}'), "something other than a list"),
    ((200, b" " * (8 * 1024 * 1024 + 1)), "larger than 8 MB"),
]


@pytest.mark.parametrize(("answer", "told"), WRONG, ids=[each[1] + str(i) for i, each in enumerate(WRONG)])
def test_what_is_no_list_is_told(db: None, peer: str, answer: tuple[int, bytes], told: str) -> None:
    with pytest.raises(ProviderUnavailable, match=told):
        names("openai", peer, answer, answer)


@pytest.fixture
def here(own_database: str) -> Iterator[SimulatorProcess]:
    with simulator("--api-key", KEY, latency_ms=5) as running:
        simulated_provider(running.port)
        Provider.objects.update(secret_name="HOUSE_KEY")
        yield running


@pytest.mark.processes
def test_a_runner_reads_the_list_when_it_is_told_to(here: SimulatorProcess) -> None:
    def steps(runner: Any) -> None:
        provider = Provider.objects.get()

        def error() -> str:
            return Catalogue.objects.values_list("error", flat=True).get()

        wait_until(lambda: runner._keeper.names, what="the key")
        catalogue.order([provider], forget=False, by=BY, reason="", now=timezone.now())
        wait_until(lambda: "small" in Catalogue.objects.get().names, what="the list")
        here.accept("another")
        catalogue.order([provider], forget=False, by=BY, reason="", now=timezone.now())
        wait_until(lambda: "401" in error(), what="the refusal")
        row = Catalogue.objects.get()
        assert "small" in row.names
        assert KEY not in row.error
        assert here.stats()["requests"] == 0, "no call was made"

    keeper = Keeper("agents", backend=Memory({"HOUSE_KEY": KEY}))
    run_until(lambda: True, keeper=keeper, meanwhile=steps, timeout_s=60)
    assert here.stats()["listed"] >= 2
    assert CacheUsage.objects.get(cache=Cache.CATALOGUE).stored == 1


# -- what it is for ----------------------------------------------------------------------------------------------------


def listing(*names: str, provider: str = "simulated", at: dt.datetime | None = None) -> None:
    row = Provider.objects.filter(name=provider).first() or Provider.objects.create(name=provider)
    now = at or timezone.now()
    Catalogue.objects.create(provider=row, names=sorted(names), fetched_at=now, asked_at=now, due_at=now + DAY)


KNOWN = [
    # listed, named, whether it counts as listed
    (["gpt-4o"], "gpt-4o", True),
    (["gpt-4o-2024-11-20"], "gpt-4o", True),
    (["gpt-4o"], "gpt-4o-2024-11-20", True),
    (["claude-sonnet-4-20250514"], "claude-sonnet-4", True),
    (["claude-sonnet-4-20250514"], "claude-sonnet-4-latest", True),
    (["gpt-4-0613"], "gpt-4", True),
    (["models/gemini-2.0-flash"], "gemini-2.0-flash", True),
    (["org/model:free"], "org/model:free", True),
    (["gpt-4o"], "gpt-4", False),
    (["gpt-4o-mini"], "gpt-4o", False),
    (["gpt-4o"], "GPT-4O", False),
]


@pytest.mark.parametrize(("listed", "named", "known"), KNOWN)
def test_which_names_a_provider_lists(db: None, listed: list[str], named: str, known: bool) -> None:
    listing(*listed, provider="house")
    assert (unlisted([f"house:{named}"]) == {}) is known


def test_without_a_list_nothing_is_doubted_and_look_ups_are_counted(
    db: None, django_capture_on_commit_callbacks: Any, django_assert_num_queries: Any
) -> None:
    listing("small")
    Provider.objects.create(name="dark")
    with django_capture_on_commit_callbacks(execute=True), django_assert_num_queries(1):
        found = unlisted(["simulated:smal", "simulated:small", "dark:any", "nobody:any"])
    assert found == {
        "simulated:smal": "simulated does not list a model 'smal': calls of it may fail. Did you mean 'small'?"
    }
    used = CacheUsage.objects.get()
    assert (used.cache, used.hits, used.misses, used.tenant_id) == ("catalogue", 2, 2, None)


@pytest.fixture
def listed(acme: Tenant) -> None:
    """A provider whose list has ``large`` and not ``small``; both have prices."""
    simulated()
    listing("large", "smaller")


WARNING = "simulated does not list a model 'small': calls of it may fail. Did you mean 'smaller'?"


def test_the_command_warns_and_submits(listed: None, tmp_path: Path) -> None:
    path = tmp_path / "brief.yaml"
    path.write_text(BRIEF)
    out, err = io.StringIO(), io.StringIO()
    call_command("submit_swarm", str(path), tenant="acme", as_json=True, stdout=out, stderr=err)
    assert f"Warning: agents.researcher.model: {WARNING}\n" in err.getvalue()
    assert "writer" not in err.getvalue()
    assert json.loads(out.getvalue())["name"] == "market-brief"


def test_the_api_and_the_console_warn_and_submit(listed: None, acme: Tenant, developer: User) -> None:
    AgentOverride.objects.create(tenant=acme, agent="writer", model="simulated:small")
    answer = Caller(developer).post("/swarms/", {"tenant": "acme", "spec": BRIEF})
    assert answer.status_code == 201
    by_override = {"attr": "agents.writer.model", "detail": f"{WARNING} An agent override sets this model."}
    assert answer.json()["warnings"] == [{"attr": "agents.researcher.model", "detail": WARNING}, by_override]
    assert "warnings" not in Caller(developer).get(f"/swarms/{answer.json()['id']}/").json()
    client = Client()
    client.force_login(developer)
    shown = client.post("/submit/", {"tenant": "acme", "spec": BRIEF}, follow=True)
    assert WARNING in text_of(shown)
    assert Swarm.objects.count() == 2


def test_overrides_and_prices_offer_what_is_listed(listed: None, acme: Tenant, platform_admin: User) -> None:
    root = client_of(platform_admin)
    override = root.get("/admin/swarms/agentoverride/add/").content.decode()
    assert '<option value="simulated:large"></option>' in override
    assert 'list="id_model_offered"' in override
    assert '<option value="smaller"></option>' in root.get("/admin/costs/price/add/").content.decode()
    region = Region.objects.get(provider__name="simulated")
    tried = root.get(f"/admin/providers/region/{region.pk}/try", follow=True).content.decode()
    assert '<option value="smaller"></option>' in tried
    fields = {"tenant": str(acme.pk), "agent": "writer", "model": "simulated:small"}
    saved = root.post("/admin/swarms/agentoverride/add/", fields, follow=True)
    assert WARNING in text_of(saved)
    assert AgentOverride.objects.get().model == "simulated:small"


def test_names_are_data_and_never_markup(acme: Tenant, platform_admin: User) -> None:
    simulated()
    listing('"><script>alert(1)</script>')
    root = client_of(platform_admin)
    provider = Provider.objects.get()
    for path in ("swarms/agentoverride/add/", "costs/price/add/", f"providers/provider/{provider.pk}/change/"):
        assert "<script>alert(1)" not in root.get(f"/admin/{path}").content.decode()


# -- pages -------------------------------------------------------------------------------------------------------------


def test_the_providers_page_tells_of_the_list_and_has_it_refreshed(
    provider: Provider, platform_admin: User, owner: User, outsider: User
) -> None:
    root = client_of(platform_admin)
    url = f"/admin/providers/provider/{provider.pk}/change/"
    assert "not yet: a worker that holds the key asks" in text_of(root.get(url))
    listing("small", "large", at=timezone.now() - dt.timedelta(hours=3))
    shown = text_of(root.get(url))
    assert "2 models" in shown
    assert "large, small" in shown
    Catalogue.objects.update(error="It answered 503.")
    assert "It answered 503." in text_of(root.get(url))
    # Refreshing asks for a reason, is audited, and keeps what is known.
    refresh = root.get(f"/admin/providers/provider/{provider.pk}/models", follow=True)
    path = refresh.request["PATH_INFO"]
    assert "The list from before stays" in text_of(refresh)
    assert "Say why" in text_of(root.post(path, {"reason": ""}))
    assert not AuditEntry.objects.filter(action="catalogue:refresh").exists()
    done = root.post(path, {"reason": "They launched one."}, follow=True)
    assert "A worker asks simulated for its models now." in text_of(done)
    assert AuditEntry.objects.get(action="catalogue:refresh").reason == "They launched one."
    row = Catalogue.objects.get()
    assert (row.names, row.due_at <= timezone.now()) == (["large", "small"], True)
    for user in (owner, outsider):
        assert client_of(user).post(path, {"reason": "Mine."}, follow=True).status_code == 403
    Provider.objects.update(is_enabled=False)
    assert "It is disabled" in text_of(root.post(path, {"reason": "Again."}))
    assert AuditEntry.objects.filter(action="catalogue:refresh").count() == 1


def test_the_consoles_page_tells_how_many_how_old_and_what_went_wrong(
    provider: Provider, platform_admin: User, viewer: User
) -> None:
    def part(user: User) -> str:
        client = Client()
        client.force_login(user)
        with CaptureQueriesContext(connection) as queries:
            text = text_of(client.get("/providers/?part=providers"))
        assert not any(re.search(r'"providers_catalogue"\."names",', each["sql"]) for each in queries)
        return text

    assert "models, listed" not in part(platform_admin)
    listing("small", "large", at=timezone.now() - dt.timedelta(hours=3))
    Catalogue.objects.update(error="It answered 503.")
    assert "2 models, listed 3 h ago" in part(platform_admin)
    assert "It answered 503." in part(platform_admin)
    assert "its models could not be listed" in part(viewer)


def test_the_page_of_caches_has_the_catalogue_and_forgets_it(
    provider: Provider, platform_admin: User, owner: User
) -> None:
    listing("small", "large")
    root = client_of(platform_admin)
    shown = text_of(root.get("/admin/caches/"))
    assert re.search(r"Model catalogue The models that providers list.*? 2 \d+", shown)
    form = {"cache": "catalogue", "tenant": "*", "agent": "*", "model": "sim*", "reason": "Renamed."}
    assert "The lists are forgotten" in text_of(root.post("/admin/caches/", form))
    assert Catalogue.objects.get().names
    done = root.post("/admin/caches/", {**form, "confirmed": "yes"}, follow=True)
    assert "Asked for anew: simulated." in text_of(done)
    assert Catalogue.objects.get().names == []
    refused = client_of(owner).post("/admin/caches/", {**form, "confirmed": "yes"}).content.decode()
    assert "Select a valid choice" in refused
    with pytest.raises(AccessDenied):
        invalidating.reload(Cache.CATALOGUE, "*", by=principal_of(owner), reason="", now=NOW)


def test_the_command_forgets_it_by_pattern(provider: Provider) -> None:
    listing("small")
    out = io.StringIO()
    call_command("invalidate_cache", "sim*", "--cache", "catalogue", stdout=out)
    assert "of simulated would be read anew by a worker that holds the key." in out.getvalue()
    assert Catalogue.objects.get().names == ["small"]
    call_command("invalidate_cache", "sim*", "--cache", "catalogue", "--wet-run", stdout=out)
    assert Catalogue.objects.get().names == []
