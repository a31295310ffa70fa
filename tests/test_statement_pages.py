"""Statements in the administration: the list of months, the page of one, closing it, its printed form.  # C7"""

from __future__ import annotations

import datetime as dt
import html
import re
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit import trail
from apps.audit.models import AuditEntry
from apps.costs import admin_statements, statements
from apps.costs.entries import write
from apps.costs.models import CentreRule, CostCentre, Statement, StatementStatus
from apps.costs.periods import Month
from apps.tenants.access import principal_of_command
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import usd_label, usd_text
from tests.spending import staff
from tests.statements import OCTOBER, entry, one_of_each, owed

pytestmark = pytest.mark.django_db

LIST = "/admin/costs/statement/"
SEPTEMBER_PAGE, OCTOBER_PAGE = f"{LIST}acme/2026-09/", f"{LIST}acme/2026-10/"
BY = principal_of_command("test")


def text_of(client: Client, url: str, **query: str) -> str:
    """The words of a page, without its markup."""
    response = client.get(url, query)
    assert response.status_code == 200, (url, response.status_code)
    return words(response)


def words(response: Any) -> str:
    main = re.sub(r"<(script|style).*?</\1>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


def said(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def close(tenant: Tenant, *months: str) -> Statement:
    for period in months:
        closed = statements.close(tenant, Month.parse(period), by=BY, now=timezone.now())
    return closed


def rows_of(response: Any) -> list[tuple[str, str, bool]]:
    """Period, tenant and whether it can be closed, row by row."""
    return [(row["period"], row["tenant"], row["can_close"]) for row in response.context["rows"]]


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_shows_drafts_and_statements_and_which_month_can_be_closed(
    finance: User, acme: Tenant, rival: Tenant
) -> None:
    client = staff(finance)
    assert "Nothing was spent yet." in text_of(client, LIST)
    one_of_each(acme)
    one_of_each(rival)
    current = f"{timezone.now().astimezone(acme.zone):%Y-%m}"
    response = client.get(LIST)
    found = {period: can_close for period, _, can_close in rows_of(response)}
    assert found["2026-09"] is True
    assert found["2026-10"] is found[current] is False
    text = words(response)
    assert "2026-09 comes first: months are closed in their order." in text
    assert f"{current} is not over: it can be closed from " in text
    assert "1 month can be closed now." in text
    assert "Rival" not in text
    assert f"{SEPTEMBER_PAGE}close/" in response.content.decode()
    closed = close(acme, "2026-09")
    response = client.get(LIST)
    by_period = {row["period"]: row for row in response.context["rows"]}
    assert (
        by_period["2026-09"]["amount"] == f'<span title="{usd_text(closed.total)} USD">{usd_label(closed.total)}</span>'
    )
    assert by_period["2026-10"]["can_close"]
    october = owed(acme, dt.datetime(2026, 10, 1, 4, tzinfo=dt.UTC), dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC))
    assert f"{october.normalize():f} USD" in by_period["2026-10"]["amount"]


def test_the_list_is_filtered_and_paged(
    finance: User, acme: Tenant, rival: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    Membership.objects.create(user=finance, tenant=rival, role=Role.VIEWER)
    for tenant in (acme, rival):
        one_of_each(tenant)
        close(tenant, "2025-12", "2026-08", "2026-09")
    client = staff(finance)
    assert rows_of(client.get(LIST, {"state": "ready"})) == [("2026-10", "Acme", True), ("2026-10", "Rival", True)]
    closed = [("2026-09", "Rival", False), ("2026-08", "Rival", False), ("2025-12", "Rival", False)]
    assert rows_of(client.get(LIST, {"state": "closed", "tenant": "rival"})) == closed
    assert rows_of(client.get(LIST, {"year": "2025"})) == [("2025-12", "Acme", False), ("2025-12", "Rival", False)]
    text = words(client.get(LIST, {"state": "ready", "tenant": "rival"}))
    assert "can be closed now" in text
    assert "Close…" not in text  # she only looks at this tenant's costs
    assert "No month is like that." in text_of(client, LIST, year="2025", state="draft")
    for wrong, says in (
        ({"tenant": "other"}, "one of the tenants"),
        ({"year": "1999"}, "“1999” is not one of the years"),
    ):
        assert says in words(client.get(LIST, wrong))
    monkeypatch.setattr(admin_statements, "MONTHS_PER_PAGE", 3)
    seen: list[Any] = []
    for page in range(1, 20):
        response = client.get(LIST, {"page": page})
        if response.context["page"].number != page:
            break
        seen += rows_of(response)
    assert len(seen) == len(set(seen)) == len(response.context["page"].paginator.object_list) > 9
    assert seen[-1] == ("2025-12", "Rival", False)
    assert client.get(LIST, {"page": "x"}).context["page"].number == 1


def test_the_list_and_the_page_take_the_same_queries_however_much_there_is(platform_admin: User, acme: Tenant) -> None:
    client = staff(platform_admin)
    one_of_each(acme)
    close(acme, "2026-09")
    counts: list[list[int]] = []
    for more in (1, 6):
        for n in range(more):
            tenant = Tenant.objects.create(slug=f"t{more}-{n}", name=f"T {more} {n}")
            one_of_each(tenant)
            close(tenant, "2026-09")
            write([entry(acme, amount=1, agent=f"a{more}-{n}")], now=None)
        counts.append([])
        for url in (LIST, SEPTEMBER_PAGE, OCTOBER_PAGE, f"{OCTOBER_PAGE}close/", f"{OCTOBER_PAGE}print/"):
            with CaptureQueriesContext(connection) as queries:
                assert client.get(url).status_code == 200
            counts[-1].append(len(queries))
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 14


# -- the page of a month -----------------------------------------------------------------------------------------------


def test_a_draft_and_its_statement_say_the_same(finance: User, acme: Tenant, rival: Tenant) -> None:
    one_of_each(acme)
    one_of_each(rival)
    centre = CostCentre.objects.create(tenant=acme, code="CC-1", name="Writing")
    CentreRule.objects.create(centre=centre, agent="wri*")
    client = staff(finance)
    draft = client.get(OCTOBER_PAGE)
    text = words(draft)
    for told in (
        "October 2026, Acme", "draft", "1 October 2026, 00:00 (EDT)", "1 November 2026, 00:00 (EDT)",
        "Time zone America/New_York", "2026-09 comes first", "CC-1 Writing", "No cost centre", "0.125 agent-hours",
        "0.000000001 GB-months", "own:model", "1 in this month", "Wrong price", "2026-09",
    ):  # fmt: skip
        assert told in text, told
    assert f"{SEPTEMBER_PAGE}" in draft.content.decode()
    statement = close(acme, "2026-09", "2026-10")
    kept = client.get(OCTOBER_PAGE)
    for name in ("total_exact", "entries", "kinds", "centres", "groups", "corrections"):
        assert draft.context[name] == kept.context[name], name
    assert kept.context["total_exact"] == usd_text(statement.total)
    text = words(kept)
    assert "command test" in text
    assert str(statement.pk) in text
    assert "Close this month" not in text
    for format in ("csv", "xlsx", "focus"):
        url = f"/admin/costs/export/?tenant=acme&period=2026-10&format={format}"
        assert html.escape(url) in kept.content.decode()
        assert client.get(url)["Content-Disposition"].startswith('attachment; filename="acme-2026-10')
    by_id = client.get(f"{LIST}{statement.pk}/change/")
    assert by_id.context["total_exact"] == usd_text(statement.total)


def test_many_lines_are_paged_and_the_totals_are_of_all(
    finance: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([entry(acme, amount=n, agent=f"agent-{n:03}") for n in range(1, 251)], now=None)
    client = staff(finance)
    monkeypatch.setattr(admin_statements, "MOST_PRINTED", 240)
    for close_first in (False, True):
        if close_first:
            close(acme, "2026-10")
        agents = []
        for page in (1, 2, 3):
            response = client.get(OCTOBER_PAGE, {"page": page})
            agents += [line["agent"] for group in response.context["groups"] for line in group["lines"]]
            assert response.context["total_exact"] == usd_text(sum(range(1, 251)))
            assert "Page " in words(response)
        assert agents == [f"agent-{n:03}" for n in range(1, 251)]
        paper = text_of(client, f"{OCTOBER_PAGE}print/")
        assert "10 further lines are not listed here." in paper
        assert "Total of all 250 lines 250" in paper
        assert "0.000031375" in paper


def test_the_printed_form_marks_a_draft_and_names_a_statement(finance: User, acme: Tenant) -> None:
    one_of_each(acme)
    client = staff(finance)
    paper = client.get(f"{OCTOBER_PAGE}print/")
    assert "DRAFT." in words(paper)
    assert "<nav" in paper.content.decode()
    assert "nav-sidebar" not in paper.content.decode()
    statement = close(acme, "2026-09", "2026-10")
    text = text_of(client, f"{OCTOBER_PAGE}print/")
    for told in (
        "Statement October 2026", "Acme", str(statement.pk), "by command test", f"{usd_text(statement.total)} USD",
        "US dollars", "America/New_York", "pseudonyms", "Corrections of earlier months",
    ):  # fmt: skip
        assert told in text, told
    assert "DRAFT" not in client.get(f"{OCTOBER_PAGE}print/").content.decode()


def test_a_month_without_entries_says_so(finance: User, acme: Tenant) -> None:
    client = staff(finance)
    assert "Nothing was spent in this month." in text_of(client, f"{LIST}acme/2026-06/")
    assert "Nothing was owed for this month." in text_of(client, f"{LIST}acme/2026-06/print/")


def test_a_month_that_is_being_added_up_says_so_and_looks_again(finance: User, acme: Tenant) -> None:
    one_of_each(acme)
    begun = statements._begin(acme.pk, Month(2026, 9), by=BY, now=timezone.now())
    client = staff(finance)
    page = client.get(SEPTEMBER_PAGE)
    assert "This month is being added up." in words(page)
    assert '<meta http-equiv="refresh" content="3">' in page.content.decode()
    assert "being added up" in text_of(client, LIST)
    assert "closing already" in said(client.get(f"{SEPTEMBER_PAGE}close/"))
    statements.finish(begun.pk, now=timezone.now())
    assert "being added up" not in text_of(client, SEPTEMBER_PAGE)


@pytest.mark.parametrize(
    ("period", "says"),
    [
        ("2026-13", "is not a month"),
        ("2099-01", "has not begun"),
        ("2026-05", "there was no entry"),
        ("1999-01", "is not"),
    ],
)
def test_what_is_no_month_leads_back_and_says_why(finance: User, acme: Tenant, period: str, says: str) -> None:
    one_of_each(acme)
    close(acme, "2026-09")
    client = staff(finance)
    for page in ("", "close/", "print/"):
        response = client.get(f"{LIST}acme/{period}/{page}")
        assert (response.status_code, response["Location"]) == (302, LIST)
        assert says in said(response)


# -- closing -----------------------------------------------------------------------------------------------------------


def test_finance_closes_a_month_by_typing_it(finance: User, acme: Tenant) -> None:
    one_of_each(acme)
    write([entry(acme, amount=70, unsettled=True, at=OCTOBER - dt.timedelta(days=30))], now=None)
    client = staff(finance)
    assert f"{SEPTEMBER_PAGE}close/" in client.get(SEPTEMBER_PAGE).content.decode()
    text = text_of(client, f"{SEPTEMBER_PAGE}close/")
    for told in (
        "cannot be undone",
        "2 ledger entries",
        "1 charge ($0.000000) is not settled",
        "corrected in a later month",
    ):
        assert told in text, told
    for typed, says in (("", "Type 2026-09"), ("2026-10", "“2026-10” is not 2026-09"), ("yes", "is not 2026-09")):
        assert says in words(client.post(f"{SEPTEMBER_PAGE}close/", {"confirm": typed}))
    assert not Statement.objects.exists()
    response = client.post(f"{SEPTEMBER_PAGE}close/", {"confirm": " 2026-09 "})
    statement = Statement.objects.get()
    assert (response.status_code, response["Location"], statement.status) == (
        302,
        SEPTEMBER_PAGE,
        StatementStatus.CLOSED,
    )
    assert f"is closed: {usd_text(statement.total)} USD in 2 entries." in said(response)
    act = AuditEntry.objects.get(action="cost:update", resource_id=str(statement.pk))
    assert (act.actor, act.details["period"], act.success) == (str(finance.pk), "2026-09", True)
    assert "finance" in text_of(client, SEPTEMBER_PAGE)
    again = client.post(f"{SEPTEMBER_PAGE}close/", {"confirm": "2026-09"})
    assert again["Location"] == SEPTEMBER_PAGE
    assert "closed already" in said(again)
    assert Statement.objects.count() == 1


def test_a_click_that_comes_second_finds_the_month_closed(
    finance: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_each(acme)

    def first_comes_the_other(*args: Any, **kwargs: Any) -> Statement:
        close(acme, "2026-09")
        return statements.close(*args, **kwargs)

    monkeypatch.setattr("apps.costs.admin_closing.close", first_comes_the_other)
    response = staff(finance).post(f"{SEPTEMBER_PAGE}close/", {"confirm": "2026-09"})
    assert (response.status_code, response["Location"]) == (302, SEPTEMBER_PAGE)
    assert "2026-09 is closed already." in said(response)


def test_why_a_month_cannot_be_closed_is_said_and_nothing_is_closed(
    finance: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_each(acme)
    client = staff(finance)
    current = f"{timezone.now().astimezone(acme.zone):%Y-%m}"
    for period, says in (("2026-10", "2026-09 comes first"), (current, "is not over: it can be closed from")):
        for answer in (client.get, client.post):
            text = words(answer(f"{LIST}acme/{period}/close/", {"confirm": period}))
            assert says in text
            assert "for good" not in text

    def busy(*args: Any, **kwargs: Any) -> Statement:
        raise statements.CannotClose("The ledger is too busy to be closed at this moment.")

    monkeypatch.setattr("apps.costs.admin_closing.close", busy)
    assert "too busy" in words(client.post(f"{SEPTEMBER_PAGE}close/", {"confirm": "2026-09"}))
    assert not Statement.objects.exists()


def test_an_export_that_failed_is_told_before_closing(finance: User, acme: Tenant) -> None:
    one_of_each(acme)
    client = staff(finance)
    assert "failed" not in text_of(client, f"{SEPTEMBER_PAGE}close/")
    trail.record(BY, "cost:export", acme, tenant_id=acme.pk, success=False, reason="It is not the file that it was.")
    assert "It is not the file that it was." in text_of(client, f"{SEPTEMBER_PAGE}close/")


def test_viewers_look_and_outsiders_find_nothing(
    viewer: User, outsider: User, platform_admin: User, acme: Tenant
) -> None:  # A5
    one_of_each(acme)
    looking = staff(viewer)
    for url in (LIST, SEPTEMBER_PAGE, f"{SEPTEMBER_PAGE}print/"):
        assert f"{SEPTEMBER_PAGE}close/" not in looking.get(url).content.decode()
    assert "It can be closed now, by finance or an admin" in text_of(looking, SEPTEMBER_PAGE)
    foreign = staff(outsider)
    for url in (SEPTEMBER_PAGE, f"{SEPTEMBER_PAGE}print/", f"{LIST}nobody/2026-09/", f"{LIST}nobody/2026-09/close/"):
        assert foreign.get(url).status_code == 404, url
    assert "Acme" not in text_of(foreign, LIST)
    for client, status in ((looking, 403), (foreign, 404)):
        assert client.get(f"{SEPTEMBER_PAGE}close/").status_code == status
        assert client.post(f"{SEPTEMBER_PAGE}close/", {"confirm": "2026-09"}).status_code == status
    assert not Statement.objects.exists()
    staff(platform_admin).post(f"{SEPTEMBER_PAGE}close/", {"confirm": "2026-09"})
    assert Statement.objects.get().is_closed
    assert looking.get(SEPTEMBER_PAGE).context["closed_by"] == "root"
    assert foreign.get(SEPTEMBER_PAGE).status_code == 404
    assert Client().post(f"{SEPTEMBER_PAGE}close/")["Location"].startswith("/admin/login/")
