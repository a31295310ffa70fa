"""Cost centres in the administration: finance makes them with their rules; the page says where a month's costs go."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.costs import centre_acts
from apps.costs.centres import Rule, Terms, terms_of
from apps.costs.charging import charging_of
from apps.costs.entries import write
from apps.costs.exports.extract import extract_of
from apps.costs.models import CentreRule, CostCentre, Kind
from apps.costs.periods import Month
from apps.costs.statements import close, draft_lines
from apps.events.models import Event
from apps.privacy.models import DataSubject
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.statements import call, entry, one_of_each
from tests.test_admin_money import errors, staff

pytestmark = pytest.mark.django_db

LIST, ADD, GOES = "/admin/costs/costcentre/", "/admin/costs/costcentre/add/", "/admin/costs/where-costs-go/"
BY = principal_of_command("test")


def page(centre: CostCentre, of: str = "change") -> str:
    return f"{LIST}{centre.pk}/{of}/"


def form(code: str = "CC-1", name: str = "Writing", *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What a browser sends; rules with an ``id`` are there already."""
    empty = {"position": 10, "kind": "", "agent": "", "model": "", "run": "", "person": "", "id": ""}
    sent = {"code": code, "name": name, **more}
    ordered = sorted(rules, key=lambda rule: not rule.get("id"))
    for number, rule in enumerate(ordered):
        sent |= {f"rules-{number}-{field}": value for field, value in {**empty, **rule}.items()}
    known = sum(1 for rule in rules if rule.get("id"))
    return {**sent, "rules-TOTAL_FORMS": len(rules), "rules-INITIAL_FORMS": known}


def made(tenant: Tenant, code: str, *rules: dict[str, Any]) -> CostCentre:
    centre = CostCentre.objects.create(tenant=tenant, code=code, name=f"Name of {code}")
    for rule in rules:
        CentreRule.objects.create(centre=centre, **rule)
    return centre


def text_of(response: Any) -> str:
    assert response.status_code == 200
    return str(response.content.decode().replace("&quot;", '"').replace("&#x27;", "'"))


# -- the form ----------------------------------------------------------------------------------------------------------


def test_finance_makes_a_cost_centre_with_rules_in_one_act(finance: User, acme: Tenant) -> None:  # C7
    person = DataSubject.objects.create(tenant_id=acme.pk, reference="user-8842")
    rules = ({"agent": " research-* ", "kind": "llm"}, {"person": "user-8842", "position": 20}, {"position": 30})
    response = staff(finance).post(ADD, form("CC-1", "Writing", *rules, tenant=acme.pk), follow=True)
    assert response.status_code == 200, errors(response)
    assert terms_of(acme.pk) == Terms(
        {"CC-1": "Writing"},
        (Rule("CC-1", "llm", "research-*"), Rule("CC-1", subject=str(person.pk)), Rule("CC-1")),
    )
    assert "Rule 3 has nothing filled in: it takes everything that no earlier rule takes." in text_of(response)
    act = AuditEntry.objects.get(resource_kind="costcentre")
    assert (act.action, act.actor, act.tenant_id) == ("cost:update", str(finance.pk), acme.pk)
    added = ["10: model calls, agent research-*", f"20: user {person.pk}", "30: everything"]
    assert act.details == {"act": "create", "code": "CC-1", "name": "Writing", "rules_added": added}
    told = Event.objects.get(kind="cost_centre.created")
    assert (told.tenant_id, told.data["code"], told.data["rules_added"]) == (acme.pk, "CC-1", added)


def test_rules_are_changed_added_and_removed_with_what_they_were_in_the_trail(finance: User, acme: Tenant) -> None:
    centre = made(acme, "CC-1", {"agent": "writer"}, {"agent": "reader", "position": 20})
    kept, gone = centre.rules.all()
    client = staff(finance)
    shown = text_of(client.get(page(centre)))
    assert "1st of 2: agent writer" in shown
    assert "2nd of 2: agent reader" in shown
    rules = (
        {"id": kept.pk, "agent": "writ*"},
        {"id": gone.pk, "agent": "reader", "position": 20, "DELETE": "on"},
        {"model": "m"},
    )
    assert client.post(page(centre), form("CC-2", "Words", *rules)).status_code == 302
    assert terms_of(acme.pk) == Terms({"CC-2": "Words"}, (Rule("CC-2", agent="writ*"), Rule("CC-2", model="m")))
    act = AuditEntry.objects.get(resource_kind="costcentre")
    assert act.details == {
        "act": "change",
        "code": ["CC-1", "CC-2"],
        "name": ["Name of CC-1", "Words"],
        "rules_removed": ["20: agent reader"],
        "rules_added": ["10: model m"],
        "rules_changed": [["10: agent writer", "10: agent writ*"]],
    }
    same = [{"id": rule.pk, "agent": rule.agent, "model": rule.model} for rule in centre.rules.all()]
    assert client.post(page(centre), form("CC-2", "Words", *same)).status_code == 302
    assert AuditEntry.objects.filter(resource_kind="costcentre").count() == 1  # nothing was changed


@pytest.mark.parametrize(
    ("fields", "rule", "says"),
    [
        ({"code": "C C"}, {}, "Letters, digits and . _ / - only"),
        ({"code": ""}, {}, "This field is required."),
        ({"code": "TAKEN"}, {}, "There is a cost centre TAKEN Name of TAKEN already"),
        ({"name": " "}, {}, "This field is required."),
        ({"tenant": ""}, {}, "This field is required."),
        ({}, {"person": "nobody"}, "Nobody is known as “nobody” in this tenant."),
        ({}, {"person": "of-rival"}, "Nobody is known as “of-rival” in this tenant."),
        ({}, {"person": "00000000-0000-0000-0000-000000008842"}, "Nobody is known as"),
        ({}, {"position": "-1"}, "greater than or equal to 0"),
        ({}, {"position": "99999999999"}, "less than or equal to 2147483647"),
        ({}, {"kind": "gpu"}, "Select a valid choice"),
        ({}, {"agent": "x" * 101}, "at most 100 characters"),
    ],
)
def test_what_makes_no_sense_is_said_on_the_form(
    finance: User, acme: Tenant, rival: Tenant, fields: dict[str, Any], rule: dict[str, Any], says: str
) -> None:
    made(acme, "TAKEN")
    DataSubject.objects.create(tenant_id=rival.pk, reference="of-rival")
    sent = {**form("CC-1", "Writing", rule, tenant=acme.pk), **fields}
    assert says in text_of(staff(finance).post(ADD, sent))
    assert CostCentre.objects.count() == 1
    assert not AuditEntry.objects.filter(resource_kind="costcentre").exists()


def test_a_code_of_another_cost_centre_is_refused_on_change_too(finance: User, acme: Tenant) -> None:
    made(acme, "A")
    assert "There is a cost centre A" in text_of(staff(finance).post(page(made(acme, "B")), form("A", "x")))


def test_a_rule_that_is_never_reached_says_so(finance: User, acme: Tenant) -> None:
    made(acme, "ALL", {"agent": "*", "position": 5})
    late = made(acme, "LATE", {"model": "openai:*"})
    client = staff(finance)
    assert "never reached" in text_of(client.get(page(late)))
    response = client.post(
        page(late), form("LATE", "Late", {"id": late.rules.get().pk, "model": "openai:*"}), follow=True
    )
    assert "Rule 2 (model openai:*) is never reached: rule 1 of cost centre ALL comes first" in text_of(response)
    assert "Never reached: rule 1 takes all of it." in text_of(client.get(GOES))


def test_rules_of_one_position_take_effect_in_the_order_in_which_they_were_made(finance: User, acme: Tenant) -> None:
    second, first = made(acme, "B"), made(acme, "A", {"agent": "x"})
    CentreRule.objects.create(centre=second, agent="y")
    assert "2nd of 2: agent y" in text_of(staff(finance).get(page(second)))
    assert "1st of 2: agent x" in text_of(staff(finance).get(page(first)))


def test_somebody_who_was_faster_is_told_of(finance: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    centre = made(acme, "CC-1", {"agent": "a"})
    rule = centre.rules.get()
    locked = centre_acts._locked

    def meanwhile(given: CostCentre) -> CostCentre:
        CentreRule.objects.all().delete()
        return locked(given)

    monkeypatch.setattr(centre_acts, "_locked", meanwhile)
    sent = form("CC-1", "x", {"id": rule.pk, "agent": "b"})
    assert "A rule that you changed was removed meanwhile." in text_of(
        staff(finance).post(page(centre), sent, follow=True)
    )
    assert CostCentre.objects.get().name == "Name of CC-1"


def test_a_tenant_has_only_so_many_rules(acme: Tenant, finance: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centre_acts, "MOST_RULES", 2)
    sent = form("CC-1", "x", {}, {"agent": "a"}, {"agent": "b"}, tenant=acme.pk)
    assert "A tenant has at most 2 rules." in text_of(staff(finance).post(ADD, sent, follow=True))
    assert not CostCentre.objects.exists()


def test_deleting_asks_for_a_reason_and_says_that_closed_months_stay(finance: User, acme: Tenant) -> None:
    centre = made(acme, "CC-1", {"agent": "writer"})
    one_of_each(acme)
    now = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    for month in (Month(2026, 9), Month(2026, 10)):
        close(acme, month, by=BY, now=now)
    client = staff(finance)
    asked = text_of(client.get(page(centre, "delete")))
    assert "Closed months keep the rules that they were closed with" in asked
    assert "10: agent writer" in asked
    refused = text_of(client.post(page(centre, "delete"), {"post": "yes", "reason": " "}, follow=True))
    assert "Nothing was deleted: say why" in refused
    client.post(page(centre, "delete"), {"post": "yes", "reason": "Moved to CC-2"})
    assert not CentreRule.objects.exists()
    act = AuditEntry.objects.get(resource_kind="costcentre")
    assert (act.reason, act.resource_id) == ("Moved to CC-2", str(centre.pk))
    assert act.details == {
        "act": "delete",
        "code": "CC-1",
        "name": "Name of CC-1",
        "rules_removed": ["10: agent writer"],
    }
    assert Event.objects.filter(kind="cost_centre.deleted").exists()
    frozen = text_of(client.get(GOES, {"month": "2026-10"}))
    assert "This month is closed" in frozen
    assert "agent writer" in frozen
    assert "Make a rule for this" not in frozen


# -- where costs go ----------------------------------------------------------------------------------------------------


def test_the_page_says_what_each_rule_takes_and_what_none_does(finance: User, acme: Tenant, rival: Tenant) -> None:
    now = timezone.now()
    write(
        [
            call(acme, (1_000, 0, 0, 0), at=now, agent="research-1"),
            call(acme, (2_000, 0, 0, 0), at=now, agent="research-2"),
            call(acme, (4_000, 0, 0, 0), at=now, agent="writer & co"),
            entry(acme, kind=Kind.STORAGE, amount=1_000_000_000, at=now, agent=""),
            call(rival, (9_000, 0, 0, 0), at=now, agent="secret"),
        ],
        now=now,
    )
    made(acme, "IDLE")
    made(acme, "CC-1", {"agent": "research-*"}, {"kind": "infrastructure", "position": 20})
    client = staff(finance)
    with CaptureQueriesContext(connection) as queries:
        shown = text_of(client.get(GOES))
    assert len(queries) <= 16
    for words in ("agent research-*", "$0.0075", "0.7 %", "writer &amp; co", "$1.00", "$1.02", "Nothing is charged to"):
        assert words in shown, words
    assert "secret" not in shown
    at = LIST.rstrip("/")
    centre = CostCentre.objects.get(code="CC-1")
    chosen = client.get(
        GOES, {"tenant": str(acme.pk), "rule": "agent=writer+%26+co&model=openai:gpt-4o", "centre": str(centre.pk)}
    )
    assert chosen["Location"] == f"{at}/{centre.pk}/change/?agent=writer+%26+co&model=openai%3Agpt-4o"
    filled = text_of(client.get(chosen["Location"]))
    assert 'value="writer &amp; co"' in filled
    assert 'name="rules-2-position" value="30"' in filled
    fresh = client.get(GOES, {"rule": "kind=storage&reason=x", "centre": "new"})
    assert fresh["Location"] == f"{ADD}?tenant={acme.pk}&kind=storage"
    assert 'value="storage" selected' in text_of(client.get(fresh["Location"]))
    sent = form("ST", "Storage", {"kind": "storage", "position": 30}, tenant=acme.pk)
    assert client.post(fresh["Location"], sent).status_code == 302  # sent to where it was filled in
    assert Rule("ST", "storage") in terms_of(acme.pk).rules


def test_the_division_is_that_of_the_statement(acme: Tenant) -> None:
    one_of_each(acme)
    made(acme, "A", {"agent": "wri*", "kind": "llm"}, {"run": "night*"}, {"agent": "writer"})
    made(acme, "B", {"kind": "storage", "position": 3})
    extract = extract_of(acme, "2026-10", now=dt.datetime(2026, 11, 21, tzinfo=dt.UTC))
    divided = charging_of(extract)
    by_code: dict[str, int] = {"": divided.amount_untaken}
    for taken in divided.taken:
        by_code[taken.rule.centre] = by_code.get(taken.rule.centre, 0) + taken.amount
    lines: dict[str, int] = {}
    for line in draft_lines(extract):
        lines[line.cost_centre] = lines.get(line.cost_centre, 0) + line.amount
    assert by_code == lines
    assert set(lines) == {"", "A", "B"}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"month": "2026-13"}, '"2026-13" is not a month such as 2026-10.'),
        ({"month": "2999-01"}, "2999-01 has not begun for acme"),
        ({"tenant": "x"}, "is not one of the tenants you may see"),
        ({"rule": "agent=x", "centre": "99999999999999999999"}, None),
    ],
)
def test_wrong_months_and_tenants_are_told(
    finance: User, acme: Tenant, query: dict[str, str], says: str | None
) -> None:
    response = staff(finance).get(GOES, query)
    assert response.status_code == 302 if says is None else says in text_of(response)


def test_empty_states_say_what_to_do(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    shown = text_of(client.get(GOES))
    assert "There is no rule: nothing of $0.00 goes to a cost centre." in shown
    assert "Nothing was owed in this month yet." in shown
    assert "Add a cost centre with a rule" in text_of(client.get(LIST))
    nobody = User.objects.create(username="nobody", is_superuser=True)
    Tenant.objects.all().delete()
    assert "There is no tenant yet" in text_of(staff(nobody).get(GOES))


# -- and everybody else ------------------------------------------------------------------------------------------------


def test_viewers_look_and_outsiders_see_nothing(
    viewer: User, outsider: User, acme: Tenant, rival: Tenant
) -> None:  # A5
    centre = made(acme, "CC-1", {"agent": "writer"})
    looking, outside = staff(viewer), staff(outsider)
    for address in (LIST, page(centre), GOES):
        assert "CC-1" in text_of(looking.get(address))
    assert "Make a rule for this" not in text_of(looking.get(GOES))
    assert "Add a cost centre" not in text_of(looking.get(GOES))
    for client in (looking, outside):
        for address, sent in ((page(centre), form("X", "x")), (page(centre, "delete"), {"post": "yes", "reason": "x"})):
            assert client.post(address, sent).status_code in (302, 403)
        wrong = client.post(ADD, form("X", "x", tenant=acme.pk))
        assert wrong.status_code == 403 or "Select a valid choice" in text_of(wrong)
    for address in (LIST, GOES, f"{GOES}?tenant={acme.pk}", f"{LIST}?tenant={acme.pk}"):
        assert "CC-1" not in text_of(outside.get(address))
    assert outside.get(page(centre)).status_code == 302
    taken = outside.get(GOES, {"tenant": str(rival.pk), "centre": str(centre.pk), "rule": "agent=x"})
    assert taken["Location"] == f"{ADD}?tenant={rival.pk}&agent=x"
    compliance = User.objects.create(username="compliance")
    Membership.objects.create(user=compliance, tenant=acme, role=Role.COMPLIANCE)
    assert staff(compliance).get(GOES).status_code == 403
    assert Client().get(GOES).status_code == 302
    assert CostCentre.objects.get() == centre
    for user in (viewer, outsider):
        by = principal_of(user)
        with pytest.raises(AccessDenied):
            centre_acts.create_centre(tenant=acme, code="X", name="x", by=by)
        with pytest.raises(AccessDenied):
            centre_acts.change_centre(centre, name="x", by=by)
        with pytest.raises(AccessDenied):
            centre_acts.delete_centre(centre, reason="x", by=by)


def test_a_platform_admin_sees_centres_of_all_tenants_and_the_month_of_one(
    platform_admin: User, acme: Tenant, rival: Tenant
) -> None:
    client, now = staff(platform_admin), timezone.now()
    counts = []
    for number in range(2):
        for tenant in (acme, rival):
            made(tenant, f"CC-{number}", {"agent": f"a{number}", "position": number}, {"run": f"r{number}"})
        write([entry(acme, agent=f"a{number}", amount=2_000_000_000 + number, at=now)], now=now)
        client.get(LIST)
        with CaptureQueriesContext(connection) as queries:
            shown = text_of(client.get(LIST))
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 16
    assert "Rival" in shown
    assert "2.000000001 USD" not in shown  # reading the ledger of every tenant takes as long as it is large
    assert "2.000000001 USD" in text_of(client.get(f"{LIST}?tenant={acme.pk}"))
    both = text_of(client.get(GOES))
    assert all(f'value="{tenant.pk}"' in both for tenant in (acme, rival))


def test_an_act_and_its_audit_row_stand_or_fall_together(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:  # G5
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("apps.audit.trail.record", broken)
    centre = made(acme, "CC-1", {"agent": "a"})
    acts = [
        lambda: centre_acts.create_centre(tenant=acme, code="X", name="x", by=BY, rules=[CentreRule(agent="x")]),
        lambda: centre_acts.change_centre(centre, name="other", by=BY, drop=[centre.rules.get().pk]),
        lambda: centre_acts.delete_centre(centre, reason="x", by=BY),
    ]
    for act in acts:
        with pytest.raises(RuntimeError):
            act()
    assert terms_of(acme.pk) == Terms({"CC-1": "Name of CC-1"}, (Rule("CC-1", agent="a"),))
