"""A database of its own for a test whose data other processes or connections must see committed."""

from __future__ import annotations

import fcntl
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections

_TEMPLATE = "swarmdesk_migrated"
_numbers = itertools.count(1)


def _admin(statement: str) -> None:
    """Runs a statement on the server's maintenance database, outside any transaction."""
    with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(statement)


def _copy(template: str, name: str) -> None:
    """Copies a database that nobody is connected to, as files: much cheaper than page by page through the log."""
    _admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a database of its own needs the migrated one that it is copied from.

    pytest-django makes that only when some test of the run asks for ``db``. And the tests of a module that start a
    server or a browser once for all of them go to one process of a parallel run, else each would start them.
    """
    for item in items:
        names = getattr(item, "fixturenames", [])
        if "own_database" in names and "db" not in names:
            names.append("db")
        if "web_of_module" in names:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
    django_db_blocker: Any,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In a parallel run, the test database of each process is a copy of one that the first to need it migrates."""
    if not hasattr(request.config, "workerinput"):
        return
    folder = tmp_path_factory.getbasetemp().parent
    with django_db_blocker.unblock(), _one_at_a_time(folder / "template.lock"):
        if not (folder / "template").exists():
            _migrate(_TEMPLATE)
            (folder / "template").touch()
    # Nothing is left to migrate, and Django need not read all migrations to find that out.
    connection.settings_dict["TEST"] |= {"TEMPLATE": _TEMPLATE, "MIGRATE": False}


def _migrate(name: str) -> None:
    """Makes a migrated database that nobody is connected to; one of that name is of an earlier run, and goes."""
    usual = connection.settings_dict["NAME"]
    _admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    _admin(f'CREATE DATABASE "{name}"')
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        call_command("migrate", verbosity=0, interactive=False)
    finally:
        connection.close()
        connection.settings_dict["NAME"] = usual


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: pytest.FixtureRequest) -> Iterator[None]:
    """The migrated test database, and beside it a pristine copy that nobody connects to: a template."""
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        migrated = connection.settings_dict["NAME"]
        connection.close()  # a template must have no connections
        _admin(f'DROP DATABASE IF EXISTS "{migrated}_pristine" WITH (FORCE)')
        _copy(migrated, f"{migrated}_pristine")
    yield
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        _admin(f'DROP DATABASE IF EXISTS "{migrated}_pristine" WITH (FORCE)')


@pytest.fixture
def db(request: pytest.FixtureRequest) -> None:
    """The test's database: rolled back at its end, or its own where ``own_database`` is asked for too."""
    request.getfixturevalue("own_database" if "own_database" in request.fixturenames else "_django_db_helper")


@pytest.fixture
def own_database(
    request: pytest.FixtureRequest,
    django_db_setup: None,
    django_db_blocker: pytest.FixtureRequest,
) -> Iterator[str]:
    """A fresh, migrated database for this test alone, with commits that stay; its URL, for child processes.

    Django's default connection points at it while the test runs (new threads too), and children inherit it
    in DATABASE_URL. It is dropped at the end, also when children are still connected. Do not mark such a test
    with ``django_db``: the fixtures that ask for ``db`` (acme, owner, ...) are made in it, and committed.
    """
    if request.node.get_closest_marker("django_db"):
        pytest.fail("own_database and the django_db marker exclude each other: drop the marker.")
    with django_db_blocker.unblock(), new_database() as url, database_in_use(url):  # type: ignore[attr-defined]
        yield url


@contextmanager
def new_database() -> Iterator[str]:
    """Makes a migrated database that nobody uses yet, and drops it at the end; its URL."""
    name = f"{connection.settings_dict['NAME']}_own{next(_numbers)}"
    connection.close()
    _copy(_pristine(), name)
    try:
        yield _url(name)
    finally:
        _drop(name)


def pristine_url() -> str:
    """The migrated database that nobody uses. Whoever reads it has gone when the next one is copied from it."""
    return _url(_pristine())


def _pristine() -> str:
    return f"{connection.settings_dict['NAME']}_pristine"


def _url(name: str) -> str:
    return urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl()


def _drop(name: str) -> None:
    """Drops a database. Told to force it, the server ends its sessions, and looks again a tenth of a second later."""
    never = threading.Event()
    with connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        while True:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            if not cursor.rowcount:
                break
            never.wait(0.002)
        cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def database_in_use(url: str) -> Iterator[None]:
    """Points Django and the environment at a database meanwhile."""
    usual = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = connections.settings["default"]["NAME"] = urlsplit(url).path[1:]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DATABASE_URL", url)
        try:
            yield
        finally:
            # The thread that asynchronous code runs Django on outlives the test, and would keep its connection.
            SyncToAsync.single_thread_executor.submit(connections.close_all).result()
            connection.close()
            connection.settings_dict["NAME"] = connections.settings["default"]["NAME"] = usual
