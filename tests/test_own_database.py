"""The fixture that gives a test a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from django.db import connection

from apps.swarms.models import ResourcePool
from apps.tenants.models import Tenant

_COUNT = "import django; django.setup(); from apps.tenants.models import Tenant; print(Tenant.objects.count())"


def test_another_process_sees_what_the_test_committed(own_database: str, acme: Tenant) -> None:
    env = {**os.environ, "DATABASE_URL": own_database, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    seen = subprocess.run([sys.executable, "-c", _COUNT], env=env, capture_output=True, text=True, check=True)
    assert seen.stdout.strip().splitlines()[-1] == "1"


def test_another_thread_is_in_the_same_database(own_database: str) -> None:
    names = []

    def look() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            names.append(cursor.fetchone()[0])
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert names == [connection.settings_dict["NAME"]]
    assert own_database.partition("?")[0].endswith("/" + names[0])


def test_it_starts_with_what_migrations_made_and_nothing_else(own_database: str) -> None:
    assert ResourcePool.objects.count() == 1
    assert not Tenant.objects.exists()


@pytest.mark.django_db
def test_the_usual_database_is_back_afterwards() -> None:
    assert "_own" not in connection.settings_dict["NAME"]
    assert not Tenant.objects.exists()
