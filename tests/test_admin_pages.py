"""Every page of the administration, through its URL: in a fixed number of queries, with what belongs on it.

For whom it opens is in the matrix: ``tests/test_doors.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.costs.models import Budget, BudgetPeriod, LedgerEntry, Price
from apps.swarms.models import Swarm
from apps.tenants.admin_scoping import PlatformScoped, TenantScoped
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.admin import ModelAdmin, ReadOnly
from portal.admin_menu import MENU
from portal.money import NanoDollarField
from tests.admin_rows import analyse, make_platform_rows, make_rows, some_row

pytestmark = pytest.mark.django_db

ADMINS: dict[type[models.Model], Any] = dict(admin.site._registry)
REGISTERED = sorted(ADMINS, key=lambda model: model._meta.label)
SHOWN_ON_ANOTHER_PAGE = {
    "costs.Advice",
    "costs.CentreRule",
    "costs.StatementLine",
    "execution.LooseObject",
    "execution.RegionTry",
    "providers.BackendState",
    "providers.RefreshOrder",
    "providers.Breaker",
    "providers.CacheUsage",
    "providers.CachedAnswer",
    "providers.Catalogue",
    "providers.Invalidation",
    "providers.RegionMinute",
    "providers.RegionQuota",
    "providers.RegionWindow",
    "webhooks.DeliveryAttempt",
    # Sums that the report shows.
    *(f"costs.{kind}Total" for kind in ("Day", "Hour", "Swarm", "Subject", "Usage")),
    "costs.RolledTenant",
    "costs.RollupPosition",
}
MOST_QUERIES = 16


def url(model: type[models.Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=[quote(a) for a in args])


def client_of(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def root(platform_admin: User) -> Client:
    return client_of(platform_admin)


@pytest.fixture
def rows(acme: Tenant, rival: Tenant) -> None:
    make_rows(acme, 2)
    make_rows(rival, 2)
    make_platform_rows(2)


def own_models() -> Iterator[type[models.Model]]:
    for model in apps.get_models():
        if model.__module__.startswith("apps."):
            yield model


# -- nothing is forgotten ----------------------------------------------------------------------------------------------


def test_every_model_has_an_admin() -> None:
    missing = {model._meta.label for model in own_models()} - {model._meta.label for model in REGISTERED}
    assert missing <= SHOWN_ON_ANOTHER_PAGE, f"register an admin for: {sorted(missing - SHOWN_ON_ANOTHER_PAGE)}"


def test_every_admin_says_whose_rows_it_shows() -> None:
    unscoped = [
        model._meta.label
        for model, model_admin in ADMINS.items()
        if not isinstance(model_admin, TenantScoped | PlatformScoped) or not isinstance(model_admin, ModelAdmin)
    ]
    assert not unscoped, f"build these on TenantModelAdmin or PlatformModelAdmin: {unscoped}"


def test_every_inline_says_whose_rows_it_shows() -> None:
    inlines = [inline for model_admin in ADMINS.values() for inline in model_admin.inlines]
    assert inlines
    assert all(issubclass(inline, TenantScoped | PlatformScoped) for inline in inlines)


def test_every_model_is_in_the_sidebar() -> None:
    in_menu = {target for _, items in MENU for _, _, target in items if "." in target}
    assert {model._meta.label for model in REGISTERED} <= in_menu


def test_every_admin_says_what_it_is() -> None:
    assert not [model._meta.label for model in REGISTERED if not ADMINS[model].about]


@pytest.mark.parametrize("model", REGISTERED, ids=lambda model: model._meta.label)
def test_no_page_shows_nano_dollars(model: type[models.Model], rf: Any, platform_admin: User) -> None:
    model_admin: Any = ADMINS[model]
    request = rf.get("/admin/")
    request.user = platform_admin
    raw = {field.name for field in model._meta.fields if isinstance(field, NanoDollarField)}
    assert not raw & set(model_admin.get_list_display(request))
    if issubclass(type(model_admin), ReadOnly):
        shown = {str(name) for _, options in model_admin.get_fieldsets(request, model()) for name in options["fields"]}
        assert not raw & shown
    else:
        assert raw <= set(model_admin.shown_as)


# -- every page opens --------------------------------------------------------------------------------------------------


def test_lists_and_pages_take_the_same_queries_for_few_rows_and_for_more_than_fit(
    acme: Tenant, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model_admin in ADMINS.values():
        monkeypatch.setattr(model_admin, "list_per_page", 10)
    ContentType.objects.get_for_models(
        *REGISTERED, for_concrete_models=False
    )  # which Django remembers for the life of the process
    counts: dict[str, list[int]] = {}
    for more in (4, 12):
        make_rows(acme, more)
        make_platform_rows(more)
        for model in REGISTERED:
            row = some_row(model)
            assert row is not None
            addresses = {"changelist": url(model, "changelist"), "change": url(model, "change", row.pk)}
            for page, address in addresses.items():
                with CaptureQueriesContext(connection) as queries:
                    assert root.get(address).status_code == 200
                counts.setdefault(f"{model._meta.label} {page}", []).append(len(queries))
                if model._meta.label == "privacy.DataSubject" and page == "change":
                    continue
                table = model._meta.db_table
                counted = [q["sql"] for q in queries if "COUNT(" in q["sql"].upper() and f'FROM "{table}"' in q["sql"]]
                assert not (ADMINS[model].huge and counted), counted
    grown = {page: count for page, count in counts.items() if count[0] != count[1]}
    assert not grown
    assert not {page: count for page, count in counts.items() if max(count) > MOST_QUERIES}


ODD = [
    "q=x&o=99.-1.x&_facets=1&tenant=x&all=1", "q=%00&p=x", "q=11111111-1111-7111-8111-111111111111&p=999",
    "at_from=2026-99-99&created_at_from=x&at_to=2026-12-31", "nonsense=1", "swarm__id__exact=x&swarm_id=x",
    "tenant__memberships__user__password__startswith=p",
]  # fmt: skip


@pytest.mark.parametrize("query", ODD)
def test_odd_addresses_are_answered(query: str, acme: Tenant, root: Client) -> None:
    make_rows(acme, 1)
    make_platform_rows(1)
    for model in REGISTERED:
        response = root.get(f"{url(model, 'changelist')}?{query}")
        assert response.status_code in (200, 302, 400), model


def test_an_object_that_is_not_there_leads_back(root: Client) -> None:
    for model in REGISTERED:
        for wrong in ("x", "11111111-1111-7111-8111-111111111111", "0", "_2F"):
            for page in ("change", "delete", "history"):
                assert root.get(url(model, page, wrong)).status_code in (302, 403, 404), (model, wrong, page)
                root.cookies.pop("messages", None)  # that it is not there, which no page shows here


# -- and everybody else ------------------------------------------------------------------------------------------------


def test_the_filter_by_tenant_leads_nobody_to_another_tenant(rows: None, outsider: User, acme: Tenant) -> None:
    client = client_of(outsider)
    for model in (Swarm, LedgerEntry, Budget, BudgetPeriod, Price):
        assert client.get(f"{url(model, 'changelist')}?tenant={acme.pk}").content.decode().lower().count("acme-") == 0


def test_filters_offer_only_tenants_the_person_sees(rows: None, acme: Tenant, rival: Tenant, viewer: User) -> None:
    client = client_of(viewer)
    assert "Rival" not in client.get(url(Swarm, "changelist")).content.decode()
    Membership.objects.create(user=viewer, tenant=rival, role=Role.VIEWER)
    assert "Rival" in client.get(url(Swarm, "changelist")).content.decode()


def test_staff_without_any_role_see_nothing(rows: None) -> None:
    client = client_of(User.objects.create_user("newcomer", password="correct horse battery"))
    for path in ("/admin/", *(url(model, "changelist") for model in REGISTERED)):
        assert client.get(path)["Location"].startswith("/admin/login/"), path


def test_the_sidebar_shows_what_the_person_may_open(rows: None, finance: User) -> None:
    page = client_of(finance).get("/admin/").content.decode()
    assert url(Budget, "changelist") in page
    assert url(Swarm, "changelist") not in page
    assert url(User, "changelist") not in page


def test_the_list_of_attempts_reads_no_results_and_no_specs(rows: None, root: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        page = root.get(reverse("admin:execution_attempt_changelist"))
    assert page.context["cl"].result_list
    read = " ".join(query["sql"] for query in queries)
    assert '"execution_attempt"."outcome"' in read
    for large in ('"swarms_task"."result"', '"swarms_task"."item"', '"swarms_step"."prompt"', '"swarms_swarm"."spec"'):
        assert large not in read


def test_the_first_page_costs_few_queries(rows: None, root: Client, django_assert_max_num_queries: Any) -> None:
    analyse()
    root.get("/admin/")
    with django_assert_max_num_queries(18):
        page = root.get("/admin/")
    for words in ("Swarms running", "Budgets near their limit", "Resource pool", "Orchestrator"):
        assert words in page.content.decode()


# -- the login ---------------------------------------------------------------------------------------------------------


def test_people_without_staff_status_are_told_where_to_go(viewer: User, client: Client) -> None:
    client.force_login(viewer)
    response = client.get("/admin/", follow=True)
    assert response.status_code == 403
    assert "The administration is for staff" in response.content.decode()
    assert "Go to the console" in response.content.decode()
    assert 'action="/logout/"' in response.content.decode()


def test_there_is_one_login_page(viewer: User, client: Client) -> None:
    response = client.get("/admin/swarms/swarm/?q=x", follow=True)
    assert response.redirect_chain[-1][0] == "/login/?next=/admin/swarms/swarm/%3Fq%3Dx"
    form = {"username": "viewer", "password": "correct horse battery", "next": "/admin/"}
    response = client.post("/login/", form, follow=True)
    assert response.status_code == 403
    assert "The administration is for staff" in response.content.decode()


def test_the_way_out_of_the_administration_is_that_of_the_console(viewer: User) -> None:
    response = client_of(viewer).post("/admin/logout/")
    assert (response.status_code, response["Location"]) == (307, "/logout/"), "the form goes on with its token"


def test_staff_log_in_with_the_account_of_the_console(finance: User, client: Client) -> None:
    finance.is_staff = True
    finance.save()
    form = {"username": "finance", "password": "correct horse battery", "next": "/admin/"}
    response = client.post("/login/", form, follow=True)
    assert response.status_code == 200
    assert "Overview" in response.content.decode()
