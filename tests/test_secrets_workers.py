"""Workers and the keys they hold: what they run without one, which class they are, and orders given to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs.models import BudgetPeriod, LedgerEntry, Price
from apps.execution.runner import RunnerConfig
from apps.observability.health import readiness
from apps.providers.models import Provider, RefreshOrder, Region, SecretState
from apps.providers.secrets.backend import Reading
from apps.providers.secrets.keeper import Keeper
from apps.swarms.models import Swarm, Task
from apps.tenants.models import Tenant, User
from portal.money import NANO
from portal.secrets_backend import parse
from tests.costs import budget as make_budget
from tests.processes import manage, run_python
from tests.running import run_until, simulator, wait_until
from tests.secret_backends import Memory, provider
from tests.swarms import AgentOf, StepOf, make_swarm, simulated_provider

KEY, NEXT = "sk-house-key-0123456789abcdef", "sk-next-key-0123456789abcdef"
CONFIG = RunnerConfig(concurrency=20, grace_s=8, write_reserve_s=5)


def swarm_of(tenant: Tenant, model: str) -> Swarm:
    agent = {"model": model, "max_output_tokens": 50}
    return make_swarm(tenant, [StepOf("call", items=5)], {"worker": AgentOf(5, agent)}, now=timezone.now())


@pytest.mark.processes
def test_a_worker_that_could_not_read_a_key_runs_what_needs_none_and_the_rest_when_it_can(
    own_database: str, acme: Tenant
) -> None:  # P8, V7
    memory = Memory({"KEY": KEY})
    memory.goes_away()
    with simulator("--api-key", "", latency_ms=0) as at:
        simulated_provider(at.port)
        house = Provider.objects.create(name="house", secret_name="KEY")
        Region.objects.create(provider=house, name="one", base_url=f"http://127.0.0.1:{at.port}/v1")
        Provider.objects.filter(name="simulated").update(name="open")
        for name in ("house", "open"):
            Price.objects.create(
                provider=name, model="small", input_per_mtok=1, output_per_mtok=1, effective_from=timezone.now()
            )
        keyed, plain = swarm_of(acme, "house:small"), swarm_of(acme, "open:small")

        def meanwhile(_: Any) -> None:
            wait_until(lambda: Swarm.objects.get(pk=plain.pk).is_over, what="the swarm that needs no key")
            statuses = set(Task.objects.filter(swarm=keyed).values_list("status", "attempts_counted"))
            assert statuses == {("ready", 0)}  # not failed, not tried
            Region.objects.exclude(provider=house).delete()
            Provider.objects.exclude(pk=house.pk).delete()
            (check,) = [check for check in readiness() if check.name == "provider_key"]
            assert (check.ok, "Workers could not read any" in check.detail) == (False, True)
            memory.failure = None

        run_until(
            lambda: Swarm.objects.get(pk=keyed.pk).is_over,
            config=CONFIG,
            keeper=Keeper("agents", backend=memory),
            meanwhile=meanwhile,
            timeout_s=30,
        )
    assert Swarm.objects.get(pk=keyed.pk).status == "succeeded"
    assert SecretState.objects.get().is_usable(now=timezone.now())
    assert next(check for check in readiness() if check.name == "provider_key").ok


@pytest.mark.processes
def test_a_call_that_is_repeated_with_another_key_is_one_call_to_its_budget(own_database: str, acme: Tenant) -> None:
    class Replaced(Memory):
        """Its key is replaced just after it was read first."""

        def read(self, name: str) -> Reading:
            reading = super().read(name)
            self.values[name] = NEXT
            return reading

    keeper = Keeper("agents", backend=Replaced({"KEY": KEY}))
    with simulator("--api-key", NEXT, latency_ms=0) as at:
        simulated_provider(at.port)
        Provider.objects.update(secret_name="KEY")
        budget = make_budget(acme, 5 * NANO)
        swarm = swarm_of(acme, "simulated:small")

        run_until(lambda: Swarm.objects.get(pk=swarm.pk).is_over, config=CONFIG, keeper=keeper)
        answers = at.stats()["statuses"]
    assert answers["200"] == swarm.tasks_total
    assert answers["401"] >= 1
    assert set(Task.objects.filter(swarm=swarm).values_list("status", "attempts_counted")) == {("succeeded", 1)}
    amounts = LedgerEntry.objects.filter(swarm_id=swarm.pk).values_list("amount", flat=True)
    assert len(amounts) == swarm.tasks_total
    period = BudgetPeriod.objects.get(budget=budget)
    assert (period.spent, period.reserved) == (sum(amounts), 0)


@pytest.mark.parametrize(
    ("command", "environment", "worker_class", "node"),
    [
        ("orchestrate", {}, "orchestrator", "n"),
        ("work", {}, "ops", "n"),
        ("work", {"Q_CLUSTER_NAME": "agents", "WORKER_CLASS": "agents-eu"}, "agents-eu", "n/agents-eu"),
        ("daphne", {}, "web", "n"),
    ],
)
def test_a_process_knows_its_class(command: str, environment: dict[str, str], worker_class: str, node: str) -> None:
    code = "import sys; from portal import settings; print(settings.WORKER_CLASS, settings.NODE_NAME)"
    done = run_python("-c", code, command, NODE_NAME="n", **environment)
    assert done.stdout.split() == [worker_class, node]


def test_a_class_that_cannot_be_one_is_refused() -> None:
    done = manage("work", "--class", "Agents EU")
    assert (done.returncode, done.stderr) == (
        2,
        "work: A class of processes: small letters, digits and hyphens, such as agents or agents-eu.\n",
    )
    done = manage("work", WORKER_CLASS="EU!")
    assert (done.returncode, done.stderr.split(":")[1]) == (2, " WORKER_CLASS")


def test_a_backend_that_lacks_its_credential_stops_every_command_with_one_line() -> None:
    done = manage("work", SECRETS_BACKEND="vault:https://vault.example/secret/desk")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("work: VAULT_TOKEN is not set, and SECRETS_BACKEND is vault:https://vault.example/")


# -- orders ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_command_orders_a_refresh_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("refresh_secrets", reason="It leaked.")
    order = RefreshOrder.objects.get()
    assert capsys.readouterr().out == f"Order {order.pk} is given: every process reads its keys anew now.\n"
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor_kind, entry.reason) == ("secret:refresh_all", "command", "It leaked.")


@pytest.mark.django_db
def test_a_command_tells_which_keys_can_be_read_and_shows_none(
    tmp_path: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.SECRETS_BACKEND = parse(f"files:{tmp_path}")
    call_command("check_secrets")
    assert "No provider names a key that workers of the class agents may read." in capsys.readouterr().out
    provider("house", "HOUSE")
    provider("europe", "EUROPE", "agents-eu")
    (tmp_path / "HOUSE").write_text(KEY)
    call_command("check_secrets")
    out = capsys.readouterr().out
    assert "HOUSE: read, fingerprint " in out
    assert "EUROPE" not in out
    assert KEY not in out
    with pytest.raises(SystemExit):
        call_command("check_secrets", worker_class="agents-eu")
    assert "EUROPE: The key of its provider is missing. There is no file EUROPE" in capsys.readouterr().out
    settings.SECRETS_BACKEND = parse(f"files:{tmp_path}/gone")
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        call_command("check_secrets")


REFRESH = "/admin/providers/secretstate/refresh-now/"


def test_a_platform_admin_orders_a_refresh_on_its_page(platform_admin: User, client: Client) -> None:  # P8
    client.force_login(platform_admin)
    assert "refresh-now" in client.get("/admin/providers/secretstate/").content.decode()
    asked = client.get(REFRESH)
    assert asked.status_code == 200
    assert "Nothing is interrupted." in asked.content.decode()
    assert not RefreshOrder.objects.exists()
    done = client.post(REFRESH, {"reason": "As planned"}, follow=True)
    assert "Every process reads its keys anew now." in done.content.decode()
    assert RefreshOrder.objects.count() == 1
    entry = AuditEntry.objects.get(action="secret:refresh_all")
    assert (entry.actor, entry.reason) == (str(platform_admin.pk), "As planned")


@pytest.mark.parametrize("who", ["owner", "operator", "outsider"])
def test_nobody_else_sees_the_keys_or_orders_anything(who: str, request: pytest.FixtureRequest, client: Client) -> None:
    user = request.getfixturevalue(who)
    user.is_staff = True
    user.save()
    SecretState.objects.create(name="KEY", worker_class="agents")
    client.force_login(user)
    for answer in (client.get("/admin/providers/secretstate/"), client.get(REFRESH), client.post(REFRESH, {})):
        assert answer.status_code == 403
    assert not RefreshOrder.objects.exists()
