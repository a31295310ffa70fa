"""Sealing all secrets in the database anew with the current master key, so that older keys can be taken away.

Each batch is one transaction that finds its rows by what is left to do: killed anywhere and started again, it goes on
where it was, and two at once share the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connection, models, transaction

from portal.encryption import CannotOpen, EncryptedTextField, keyring
from portal.keyring import PREFIX

BATCH = 200
_ID_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction did. ``problems`` maps the primary keys of rows that do not open to the reason."""

    field: EncryptedTextField
    sealed: int
    problems: dict[Any, str]


def encrypted_fields() -> list[EncryptedTextField]:
    """Every encrypted column of the database, by table and column."""
    found = {
        (model._meta.db_table, field.column or ""): field
        for model in apps.get_models(include_auto_created=True)
        for field in model._meta.local_concrete_fields
        if isinstance(field, EncryptedTextField) and not model._meta.proxy
    }
    return [found[key] for key in sorted(found)]


def count_by_key(field: EncryptedTextField) -> Counter[str]:
    """Rows of a column by the id of the master key that they are sealed with: one query, over the whole table."""
    table, column = _names(field)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT substr({column}, {len(PREFIX) + 1}, {_ID_LENGTH}), count(*) FROM {table} "
            f"WHERE {column} <> '' GROUP BY 1 ORDER BY 1"
        )
        return Counter(dict(cursor.fetchall()))


def rotate(
    field: EncryptedTextField, *, batch: int = BATCH, recorded: Callable[[Batch], None] = lambda _: None
) -> Iterator[Batch]:
    """Seals the rows of a column that an older key sealed, a batch a transaction.

    ``recorded`` is called in the transaction of each batch. Rows that do not open are left as they are.
    """
    after: Any = None
    while True:
        with transaction.atomic():
            rows = _outdated(field, after, batch)
            if not rows:
                return
            after = rows[-1][0]
            done = _seal_anew(field, rows)
            recorded(done)
        yield done


def _outdated(field: EncryptedTextField, after: Any, batch: int) -> list[tuple[Any, str]]:
    """The next rows (primary key, sealed text) under another key than the current one, locked."""
    table, column = _names(field)
    key = _key(field)
    beyond = f"AND {key} > %s " if after is not None else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {key}, {column} FROM {table} WHERE {column} <> '' "
            f"AND substr({column}, {len(PREFIX) + 1}, {_ID_LENGTH}) <> %s {beyond}ORDER BY {key} LIMIT %s FOR UPDATE",
            [keyring().current.id, *([after] if after is not None else []), batch],
        )
        rows: list[tuple[Any, str]] = cursor.fetchall()
        return rows


def _seal_anew(field: EncryptedTextField, rows: list[tuple[Any, str]]) -> Batch:
    table, column = _names(field)
    key = _key(field)
    anew, problems = [], {}
    for pk, sealed in rows:
        place = str(_pk(field).to_python(pk))
        try:
            text = keyring().open(sealed, purpose=field.purpose, place=place)
        except CannotOpen as error:
            problems[pk] = str(error)
            continue
        anew.append((keyring().seal(text, purpose=field.purpose, place=place), pk))
    if anew:
        with connection.cursor() as cursor:
            cursor.executemany(f"UPDATE {table} SET {column} = %s WHERE {key} = %s", anew)
    return Batch(field, len(anew), problems)


def _names(field: EncryptedTextField) -> tuple[str, str]:
    quote = connection.ops.quote_name
    return quote(field.model._meta.db_table), quote(field.column or "")


def _key(field: EncryptedTextField) -> str:
    return connection.ops.quote_name(_pk(field).column or "")


def _pk(field: EncryptedTextField) -> models.Field[Any, Any]:
    return field.model._meta.pk
