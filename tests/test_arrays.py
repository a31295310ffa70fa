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

from portal.database.arrays import FlatListDumper

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

    def test_nested_and_mixed_lists_go_the_long_way(self) -> None:
        assert self._echo([["a", "b"], ["c", 'd"']], "text") == [["a", "b"], ["c", 'd"']]


def test_a_nul_is_refused_as_in_a_single_text() -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        FlatListDumper(list).dump(["a\x00b"])


def test_every_connection_uses_it() -> None:
    assert psycopg.adapters.get_dumper(list, psycopg.adapt.PyFormat.TEXT) is FlatListDumper
    assert issubclass(FlatListDumper, ListDumper)
