"""Statements that PostgreSQL plans once: every kind of parameter arrives as it is."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.tenants.models import Tenant
from portal.database.planned import run_planned

ID = uuid.UUID(int=0x1234)
AT = dt.datetime(2026, 11, 21, 12, 30, 1, 250, tzinfo=dt.UTC)
HARD = 'a "quote", a \\ and {braces}, NULL'


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", HARD),
        ("text", ""),
        ("text", None),
        ("bigint", 2**62),
        ("boolean", True),
        ("boolean", False),
        ("uuid", ID),
        ("timestamptz", AT),
        ("text[]", [HARD, None, "", "NULL"]),
        ("text[]", []),
        ("uuid[]", [ID, None]),
        ("uuid[]", [None, None]),
        ("bigint[]", [1, -(2**62)]),
        ("boolean[]", [True, False]),
        ("timestamptz[]", [AT]),
    ],
)
def test_a_parameter_arrives_as_it_is(kind: str, value: Any) -> None:
    assert run_planned(f"SELECT %(value)s::{kind}", {"value": value}) == [(value,)]


@pytest.mark.django_db
@pytest.mark.parametrize("value", [1.5, [1, "one"], [[1]], {}, object()])
def test_another_kind_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be a parameter of a planned statement"):
        run_planned("SELECT %(value)s::text", {"value": value})


@pytest.mark.django_db
def test_a_statement_is_planned_once_and_counted_each_time() -> None:
    with CaptureQueriesContext(connection) as queries:
        for number in range(5):
            assert run_planned("SELECT %(n)s::int + 40 AS of_this_test", {"n": number}) == [(number + 40,)]
    assert [query["sql"] for query in queries] == [f"SELECT '{n}'::int + 40 AS of_this_test" for n in range(5)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%of_this_test%'")
        assert cursor.fetchone() == (1,)


def test_a_rollback_and_a_lost_connection_forget_the_plans_and_nothing_else(own_database: str) -> None:
    statement = "INSERT INTO tenants_tenant SELECT * FROM tenants_tenant WHERE slug = %(slug)s::text RETURNING slug"
    Tenant.objects.create(slug="acme", name="Acme")
    for _ in range(3):
        assert run_planned(statement, {"slug": "nobody"}) == []
    with pytest.raises(IntegrityError), transaction.atomic():
        run_planned(statement, {"slug": "acme"})
    assert run_planned(statement, {"slug": "nobody"}) == []
    connection.close()
    assert run_planned(statement, {"slug": "nobody"}) == []
