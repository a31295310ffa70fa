"""What stands behind the doors: two tenants with a row of everything each, and people before them.

All of ``quagga`` is recognisable: its name is in the text of its rows, and the ids of its rows are known. The outsider
rules another tenant, in which there is as much.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote as urlquote

from django.apps import apps as django_apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import models
from django.test import Client, RequestFactory
from django.test.client import ClientHandler
from django.utils import timezone

from apps.audit.trail import Actor
from apps.costs.models import Advice, Budget, ExternalReservation
from apps.events.horizon import readable
from apps.execution.models import Archive, Artifact
from apps.providers.acts import ACTS as REGION_ACTS
from apps.providers.models import CachedAnswer, Provider, Region
from apps.swarms.actions import lifecycle
from apps.swarms.models import Swarm, Task
from apps.tenants.access import principal_of_command
from apps.tenants.actions import create_token
from apps.tenants.admin_scoping import TenantScoped
from apps.tenants.models import ApiToken, IdentityProvider, Membership, Tenant, User
from apps.tenants.roles import Role
from apps.webhooks.models import Delivery, Webhook
from portal.admin import ReadOnly
from tests import desk
from tests.admin_rows import make_platform_rows, make_rows
from tests.doors import PEOPLE, Door, doors
from tests.forms import form_of

NAME, OTHER = "quagga", "okapi"
TESTER = Actor("system", "test")
UNKNOWN_ID, UNKNOWN_NUMBER = str(uuid.UUID(int=0x0190_5D00_AC96_774B_BCCE_B302_099A_8057)), "987654321"
_handler = ClientHandler(enforce_csrf_checks=False)
_ACT = re.compile(r"/admin/(\w+)/(\w+)/<object_id>/")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_MIDDLE_OF_UUID = re.compile(r"-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-")
"""Begins with a letter that is rare, which is looked for much faster."""


@dataclass
class Scene:
    """The cast, what is planted, and how each door is asked for."""

    tenant: Tenant
    people: dict[str, User]
    running: Swarm
    paused: Swarm
    failed: Swarm
    task: Task
    clients: dict[str, Client] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    own_tokens: dict[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()
    addresses: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Any] = field(default_factory=dict)
    _forms: dict[type[models.Model], tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def planted(self, text: str, address: str = "", body: Any = None) -> set[str]:
        """What of the tenant is in a text, besides what was asked for by name: its name, or ids of its rows."""
        for echoed in (urlquote(address), address, address.partition("?")[0]):
            text = text.replace(echoed, "") if len(echoed) > 1 else text
        sent = json.dumps(body)
        told = {text[at.start() - 8 : at.end() + 12] for at in _MIDDLE_OF_UUID.finditer(text)}
        found = (told & self.ids) - set(_UUID.findall(address + sent))
        return found | ({NAME} if NAME in text.lower() and NAME not in sent else set())

    def address(self, door: Door, who: str) -> str:
        """The address at which a door leads to something of the tenant."""
        found = self.addresses.get(door.pattern, door.pattern)
        if on_a_row := _ACT.match(found):
            found = found.replace(
                "<object_id>", str(quote(self.row(django_apps.get_model(on_a_row[1], on_a_row[2])).pk))
            )
        if door.pattern == "/tokens/<pk>/revoke/":  # everybody's own
            found = f"/tokens/{self.own_tokens.get(who, self.own_tokens['viewer'])}/revoke/"
        assert "<" not in found, f"say in tests/scene.py, addresses(), what {door.name} leads to"
        return found

    def unknown(self, address: str) -> str:
        """The same address with ids and names that nothing has."""
        path, mark, query = address.partition("?")
        path = _UUID.sub(UNKNOWN_ID, path).replace(f"/{NAME}/", "/nobody/")
        return re.sub(r"/\d+/", f"/{UNKNOWN_NUMBER}/", path) + mark + query

    def unknown_body(self, body: Any) -> Any:
        """The same body with ids and names that nothing has."""
        return json.loads(_UUID.sub(UNKNOWN_ID, json.dumps(body)).replace(NAME, "nobody"))

    def row(self, model: type[models.Model]) -> models.Model:
        """A row of the tenant; of the platform, where rows are the platform's."""
        special: dict[Any, models.Model] = {Tenant: self.tenant, User: self.people["viewer"], Swarm: self.running}
        if model in special:
            return special[model]
        model_admin, rows = admin.site._registry[model], model._default_manager.all()
        if isinstance(model_admin, TenantScoped):
            rows = rows.filter(**{model_admin.tenant_path: self.tenant.pk})
        if model._meta.label in ("django_q.Success", "django_q.Failure"):
            rows = rows.filter(success=model._meta.label.endswith("Success"))
        row = rows.order_by("-pk").first()
        assert row is not None, f"let tests/admin_rows.py make a {model._meta.label}"
        return row

    def acted_on(self, door: Door) -> models.Model:
        """A row that an action of a list makes sense for."""
        assert door.model
        special: dict[str, models.Model] = {
            "swarms.Swarm: resume_chosen": self.paused,
            "swarms.Swarm: retry_chosen": self.failed,
        }
        special |= {"swarms.Task: retry_chosen": self.task}
        return special.get(door.name) or self.row(door.model)

    def asked(self, who: str, address: str) -> Any:
        """Straight from the handler: Django's test client copies the context of every template on the way."""
        factory = RequestFactory()
        factory.cookies = self.clients[who].cookies
        return _handler(factory.get(address).environ)

    def forms(self, model: type[models.Model]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a browser would send to add a row for the tenant, and to save its row as it is."""
        if isinstance(admin.site._registry[model], ReadOnly):
            return {}, {}
        if model not in self._forms:
            start = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
            ends = ("add/", f"{quote(self.row(model).pk)}/change/")
            pages = [self.asked("platform", start + end) for end in ends]
            add, change = (form_of(page.content.decode()) if page.status_code == 200 else {} for page in pages)
            self._forms[model] = add | added(self).get(model._meta.label, {}), change
        return self._forms[model]


def make_scene() -> Scene:
    """Both tenants with everything in them, and the people, logged in."""
    tenant = Tenant.objects.create(slug=NAME, name=NAME.capitalize())
    make_rows(tenant, 1)
    make_platform_rows(1)
    IdentityProvider.objects.update(issuer="http://127.0.0.1:9/", is_active=False)  # no test asks a stranger
    people = _people(tenant)
    desk.models_for_sale()
    desk.platform_is_up(timezone.now() + dt.timedelta(hours=1))  # for as long as the walk takes
    by = people["admin"]
    live = [desk.started(desk.spec(f"{NAME}-{name}", items=2), tenant, by) for name in ("running", "paused")]
    lifecycle.pause(live[1], by=principal_of_command("test"), reason=f"for {NAME}")
    failed = Swarm.objects.get(tenant=tenant, status="failed")
    _advise(tenant)
    _store_archive(tenant)
    _cache_an_answer(tenant)
    other = Tenant.objects.create(slug=OTHER, name=OTHER.capitalize())
    make_rows(other, 1)
    people["outsider"] = _person("outsider", other, Role.ADMIN)
    scene = Scene(tenant, people, live[0], live[1], failed, failed.tasks.get())
    for name, user in people.items():
        scene.clients[name] = client = Client()
        client.force_login(user)
        at = other if name == "outsider" else tenant
        token, scene.tokens[name] = create_token(user, at, role="", life=dt.timedelta(days=1), by=TESTER)
        if name != "outsider":
            scene.own_tokens[name] = str(token.uid)
    scene.clients["nobody"] = Client()
    scene.ids = frozenset(_ids_of(tenant)) - {str(people["outsider"].pk)}
    scene.addresses, scene.bodies = addresses(scene), bodies(scene)
    for _ in range(2):
        readable()  # what happened so far can be read
    return scene


def _person(name: str, tenant: Tenant | None, role: Role | None) -> User:
    user = User.objects.create(username=f"the-{name}", email=f"{name}@example.test", is_staff=True)
    if tenant and role:
        Membership.objects.create(user=user, tenant=tenant, role=role)
    return user


def _people(tenant: Tenant) -> dict[str, User]:
    people = {role: _person(role, tenant, Role(role)) for role in PEOPLE if role in Role.values}
    people["platform"] = _person("platform", None, None)
    people["platform"].is_superuser = True
    people["platform"].save()
    return people


def _advise(tenant: Tenant) -> None:
    now = timezone.now()
    Advice.objects.create(
        tenant=tenant, kind="repeated_calls", key="k", text=f"{NAME} could cache", saving=5, window_start=now,
        window_end=now,
    )  # fmt: skip


def _store_archive(tenant: Tenant) -> None:
    content = gzip.compress(f'{{"swarm": "{NAME}"}}'.encode(), mtime=0)
    key = storages["archive"].save("document.json.gz", ContentFile(content))
    Archive.objects.filter(tenant=tenant).update(key=key, size=len(content))


def _cache_an_answer(tenant: Tenant) -> None:
    CachedAnswer.objects.create(
        key="0" * 64, tenant=tenant, agent="a", model="m:m", answer="Yes.", size=4,
        expires_at=timezone.now() + dt.timedelta(days=1),
    )  # fmt: skip


def _ids_of(tenant: Tenant) -> Iterator[str]:
    """The ids of a tenant's rows that nobody can guess."""
    paths = {model: it.tenant_path for model, it in admin.site._registry.items() if isinstance(it, TenantScoped)}
    paths |= {Advice: "tenant_id", User: "memberships__tenant"}
    for model, path in paths.items():
        if isinstance(model._meta.pk, models.UUIDField):
            rows = model._default_manager.filter(**{path: tenant.pk})
            yield from (str(pk) for pk in rows.values_list("pk", flat=True))
    yield from (str(uid) for uid in ApiToken.objects.filter(tenant=tenant).values_list("uid", flat=True))


def addresses(scene: Scene) -> dict[str, str]:
    """What of the tenant each door with a gap in its pattern leads to; of acts on a row, where it is not any row."""
    of, v1 = scene.tenant, "/api/v1"
    swarm, task, region = scene.running.pk, scene.task.pk, Region.objects.all()[0]
    file = Artifact.objects.get(tenant=of).pk
    ids = {
        "swarms": swarm,
        "tasks": task,
        "artifacts": file,
        "agents": scene.running.agents.all()[0].pk,
        "budgets": Budget.objects.filter(tenant=of)[0].pk,
        "costs/reservations": ExternalReservation.objects.get(tenant_id=of.pk).pk,
        "tokens": ApiToken.objects.get(tenant=of, user__username__startswith=NAME).uid,
        "providers": Provider.objects.all()[0].pk,
        "webhooks": Webhook.objects.get(tenant=of).pk,
        "deliveries": Delivery.objects.get(tenant=of).pk,
    }
    in_api = {}
    for door in doors().values():
        start, gap, _ = door.pattern.partition("/<id>")
        if gap and (id := ids.get(start.removeprefix(f"{v1}/"))):
            in_api[door.pattern] = door.pattern.replace("<id>", str(id))
    return {
        **in_api,
        f"{v1}/swarms/<id>/resume/": f"{v1}/swarms/{scene.paused.pk}/resume/",
        f"{v1}/swarms/<id>/retry/": f"{v1}/swarms/{scene.failed.pk}/retry/",
        f"{v1}/swarms/<id>/artifacts/": f"{v1}/swarms/{scene.failed.pk}/artifacts/",
        f"{v1}/swarms/<id>/events/": f"{v1}/swarms/{scene.failed.pk}/events/",
        f"{v1}/costs/report/": f"{v1}/costs/report/?group_by=agent",
        "/api/<path>": f"{v1}/{NAME}/",
        "/swarms/<pk>/": f"/swarms/{swarm}/",
        "/swarms/<pk>/terminate/": f"/swarms/{swarm}/terminate/",
        "/swarms/<pk>/pause/": f"/swarms/{swarm}/pause/",
        "/swarms/<pk>/resume/": f"/swarms/{scene.paused.pk}/resume/",
        "/swarms/<pk>/retry/": f"/swarms/{scene.failed.pk}/retry/",
        **{f"/providers/regions/<pk>/{act}/": f"/providers/regions/{region.pk}/{act}/" for act in REGION_ACTS},
        "/artifacts/<pk>/": f"/artifacts/{file}/",
        "/tasks/<pk>/": f"/tasks/{task}/",
        "/tasks/<pk>/retry/": f"/tasks/{task}/retry/",
        "/login/with/<slug>/": "/login/with/nobody/",
        "/admin/search/": f"/admin/search/?s={NAME[:-1]}&extended=1",
        "/admin/autocomplete/": "/admin/autocomplete/?app_label=tenants&model_name=identity&field_name=user",
        "/admin/r/<content_type_id>/<object_id>/": f"/admin/r/1/{swarm}/",
        "/admin/costs/export/": f"/admin/costs/export/?tenant={NAME}&period=2001-01&format=csv",
        "/admin/costs/ledgerentry/export/": "/admin/costs/ledgerentry/export/?period=any_time",
        "/admin/costs/statement/<slug>/<period>/": f"/admin/costs/statement/{NAME}/2001-01/",
        "/admin/costs/statement/<slug>/<period>/close/": f"/admin/costs/statement/{NAME}/2001-02/close/",
        "/admin/costs/statement/<slug>/<period>/print/": f"/admin/costs/statement/{NAME}/2001-01/print/",
        "/admin/swarms/swarm/<object_id>/resume/": f"/admin/swarms/swarm/{scene.paused.pk}/resume/",
        "/admin/swarms/swarm/<object_id>/retry/": f"/admin/swarms/swarm/{scene.failed.pk}/retry/",
        "/admin/swarms/task/<object_id>/retry/": f"/admin/swarms/task/{task}/retry/",
        "/admin/tenants/user/<id>/password/": f"/admin/tenants/user/{scene.people['viewer'].pk}/password/",
        "/admin/<app_label>/": "/admin/costs/",
        "/admin/<url>": "/admin/nowhere/",
    }


WHY = {"reason": "because"}
"""What is sent to act on a row, unless it is something else."""


def bodies(scene: Scene) -> dict[str, Any]:
    """What makes sense to send to the doors that change something, by their name."""
    spec = desk.spec("new", items=1)
    event = {"event_id": "new-1", "tenant": NAME, "time": f"{timezone.now():%Y-%m-%dT%H:%M:%SZ}"}
    hook = {"tenant": NAME, "name": "new", "url": "https://1.1.1.1/"}
    return {
        "POST /submit/": {"tenant": NAME, "spec": str(spec)},
        "POST /tokens/": {"tenant": NAME, "name": "new", "role": "", "days": "30"},
        **{f"POST /swarms/<pk>/{act}/": WHY for act in ("terminate", "pause", "resume", "retry")},
        "POST /tokens/<pk>/revoke/": WHY,
        "POST /providers/keys/refresh/": WHY,
        **{f"POST /providers/regions/<pk>/{act}/": WHY for act in REGION_ACTS},
        "POST /admin/swarms/swarm/<object_id>/grant/": {"person": "the-finance", "gives": "swarm:read", **WHY},
        "POST /admin/tenants/user/<id>/password/": {"password1": "horse battery", "password2": "horse battery"},
        "POST /admin/providers/secretstate/refresh-now/": WHY,
        "POST /admin/caches/": {
            "cache": "responses", "tenant": str(scene.tenant.pk), "agent": "*", "model": "*", "confirmed": "yes", **WHY
        },
        "POST /admin/costs/advice/": {"do": "dismiss", "advice": str(Advice.objects.get().pk), **WHY},
        "POST /admin/costs/ledgerentry/<object_id>/correct/": {"do": "book", "owed": "0", "seen": "1000", **WHY},
        "POST /admin/costs/statement/<slug>/<period>/close/": {"confirm": "2001-02"},
        "POST /api/v1/swarms/": {"tenant": NAME, "spec": spec},
        "POST /api/v1/swarms/<id>/terminate/": WHY,
        "POST /api/v1/budgets/": {"tenant": NAME, "name": "new", "limit_usd": "5"},
        "PATCH /api/v1/budgets/<id>/": {"name": "renamed"},
        "POST /api/v1/costs/events/": {**event, "kind": "infrastructure", "amount_usd": "0.01"},
        "POST /api/v1/costs/reservations/": {"tenant": NAME, "amount_usd": "0.01"},
        "POST /api/v1/costs/reservations/<id>/extend/": {"lease_s": 900},
        "POST /api/v1/costs/reservations/<id>/settle/": {"amount_usd": "0.0000001"},
        "POST /api/v1/webhooks/": hook,
        "PATCH /api/v1/webhooks/<id>/": {"name": "renamed"},
        "POST /api/v1/tokens/": {"tenant": NAME, "name": "new"},
    }  # fmt: skip


def added(scene: Scene) -> dict[str, dict[str, Any]]:
    """What to fill in, beside what the form has already, to add a row of a model for the tenant."""
    of, person = str(scene.tenant.pk), str(scene.people["viewer"].pk)
    provider = str(IdentityProvider.objects.values_list("pk", flat=True)[0])
    return {
        "costs.Budget": {"tenant": of, "name": "new", "limit": "5"},
        "costs.CostCentre": {"tenant": of, "code": "NEW", "name": "New"},
        "costs.Rate": {"tenant": of, "kind": "storage", "price": "1", "effective_from_0": "2031-01-01",
                       "effective_from_1": "00:00:00", "note": "new"},
        "swarms.AgentOverride": {"tenant": of, "agent": "new", "max_replicas": "1", "note": "new"},
        "tenants.Tenant": {"name": "New", "slug": "new", "time_zone": "UTC"},
        "tenants.User": {"username": "new", "password1": "correct horse battery", "password2": "correct horse battery",
                         "usable_password": "true"},
        "tenants.Membership": {"user": person, "tenant": of, "role": "finance"},
        "tenants.ApiToken": {"user": person, "tenant": of, "days": "30"},
        "webhooks.Webhook": {"tenant": of, "name": "new", "url": "https://1.1.1.1/"},
        "tenants.AccessPolicy": {"tenant": of, "name": "new"},
        "tenants.IdentityProvider": {"name": "New", "slug": "new", "issuer": "https://new.example", "client_id": "new"},
        "tenants.GroupRule": {"provider": provider, "group": "new", "tenant": of, "role": "viewer"},
        "tenants.Identity": {"provider": provider, "user": person, "subject": "new"},
        "providers.Provider": {"name": "new"},
    }  # fmt: skip
