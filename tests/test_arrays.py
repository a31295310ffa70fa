"""Lists reach PostgreSQL as they are, by psycopg's way and by the short one."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import psycopg
import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from psycopg.types.array import ListDumper

from portal.database.arrays import FlatListDumper, as_rows

TEXTS = st.text(st.characters(exclude_characters="\x00", codec="utf-8"))
MOMENTS = st.datetimes(timezones=st.just(dt.UTC)).filter(lambda moment: 1 < moment.year < 9999)


class ArraysRoundTrip(TestCase):
    """Every list comes back equal: quotes, braces, the word NULL, empty texts and real nulls included."""

    def _echo(self, values: list[Any], kind: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT %s::{kind}[]", [values])
            row = cursor.fetchone()
        assert row is not None
        echoed: list[Any] = row[0]
        return echoed

    @given(st.lists(st.none() | TEXTS | st.sampled_from(["", "NULL", "null", "{", '"', "\\", "a,b", " "])))
    def test_texts(self, values: list[str | None]) -> None:
        assert self._echo(values, "text") == values

    @given(st.lists(st.none() | st.uuids()))
    def test_uuids(self, values: list[uuid.UUID | None]) -> None:
        assert self._echo(values, "uuid") == values

    @given(st.lists(st.none() | MOMENTS))
    def test_moments(self, values: list[dt.datetime | None]) -> None:
        assert self._echo(values, "timestamptz") == values

    @given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
    def test_whole_numbers(self, values: list[int | None]) -> None:
        assert self._echo(values, "bigint") == values

    @given(st.lists(st.none() | st.booleans()))
    def test_truths(self, values: list[bool | None]) -> None:
        assert self._echo(values, "boolean") == values

    @given(st.lists(st.tuples(st.none() | TEXTS, st.none() | st.integers(-5, 5), st.booleans()), min_size=1))
    def test_rows_come_out_as_they_went_in_whatever_they_have_in_common(self, rows: list[tuple[Any, ...]]) -> None:
        names = ("words", "number", "truth")
        query, parameters = as_rows(
            dict(zip(names, ("text", "bigint", "boolean"), strict=True)),
            dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)),
        )
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            assert cursor.fetchall() == rows

    def test_nested_and_mixed_lists_go_the_long_way(self) -> None:
        assert self._echo([["a", "b"], ["c", 'd"']], "text") == [["a", "b"], ["c", 'd"']]


def test_a_nul_is_refused_as_in_a_single_text() -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        FlatListDumper(list).dump(["a\x00b"])


def test_what_is_the_same_in_all_rows_travels_once() -> None:
    _, parameters = as_rows({"id": "int", "kind": "text"}, {"id": [1, 2], "kind": ["a", "a"]})
    assert parameters == {"id": [1, 2], "kind": "a"}


def test_every_connection_uses_it() -> None:
    assert psycopg.adapters.get_dumper(list, psycopg.adapt.PyFormat.TEXT) is FlatListDumper
    assert issubclass(FlatListDumper, ListDumper)
