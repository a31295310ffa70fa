"""The fixed cast of the tests: people of acme, and an outsider of another tenant."""

from __future__ import annotations

from typing import Any

import django.test.utils
import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher, make_password
from django.template import Context
from django.test.signals import template_rendered
from whitenoise.middleware import WhiteNoiseMiddleware

from apps.api import limits
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from tests.browser import web_server, windows
from tests.databases import (
    db,
    django_db_modify_db_settings,
    django_db_setup,
    own_database,
    pytest_collection_modifyitems,
)

__all__ = [
    "db",
    "django_db_modify_db_settings",
    "django_db_setup",
    "own_database",
    "pytest_collection_modifyitems",
    "web_server",
    "windows",
]


def pytest_collectstart() -> None:
    """Makes the pages of the administration, which tests of modules ask for, in processes that collect tests."""
    import portal.urls  # noqa: F401


def _render(self: Any, context: Context) -> str:
    """As Django renders templates in tests, but tells the test client only of pages, and not of each of their parts.

    It copies the contexts of all that it is told of, and a page of the administration has hundreds of parts: that was
    a fifth of the time of a request. ``response.context`` is that of the page.
    """
    if context.template is self:
        template_rendered.send(sender=self, template=self, context=context)
    text: str = self.nodelist.render(context)
    return text


django.test.utils.instrumented_test_render = _render  # type: ignore[attr-defined]


_look_for_files = WhiteNoiseMiddleware.add_files_from_finders
_static_files: dict[tuple[str, int], dict[str, Any]] = {}


def _add_files(self: Any) -> None:
    """The static files are looked for once: a server does that when it starts, and a test starts many clients."""
    about = self.static_prefix, self.max_age
    if about not in _static_files:
        _look_for_files(self)
        _static_files[about] = dict(self.files)
    self.files.update(_static_files[about])


WhiteNoiseMiddleware.add_files_from_finders = _add_files


@pytest.fixture
def acme(db: None) -> Tenant:
    return Tenant.objects.create(slug="acme", name="Acme", time_zone="America/New_York")


@pytest.fixture
def rival(db: None) -> Tenant:
    """Another tenant, which must never see anything of acme."""
    return Tenant.objects.create(slug="rival", name="Rival", time_zone="Asia/Tokyo")


# Of the million rounds that make a password's hash slow; people are made anew for nearly every test.
PBKDF2PasswordHasher.iterations = 1_000


def _user(name: str, tenant: Tenant, role: Role) -> User:
    user = User.objects.create(
        username=name, email=f"{name}@example.test", password=make_password("correct horse battery")
    )
    Membership.objects.create(user=user, tenant=tenant, role=role)
    return user


@pytest.fixture
def owner(acme: Tenant) -> User:
    return _user("owner", acme, Role.ADMIN)


@pytest.fixture
def operator(acme: Tenant) -> User:
    return _user("operator", acme, Role.OPERATOR)


@pytest.fixture
def developer(acme: Tenant) -> User:
    return _user("developer", acme, Role.DEVELOPER)


@pytest.fixture
def viewer(acme: Tenant) -> User:
    return _user("viewer", acme, Role.VIEWER)


@pytest.fixture
def finance(acme: Tenant) -> User:
    return _user("finance", acme, Role.FINANCE)


@pytest.fixture
def outsider(rival: Tenant) -> User:
    """Holds every role's power in another tenant, and none here."""
    return _user("outsider", rival, Role.ADMIN)


@pytest.fixture
def platform_admin(db: None) -> User:
    return User.objects.create(
        username="root",
        email="root@example.test",
        password=make_password("correct horse battery"),
        is_staff=True,
        is_superuser=True,
    )


@pytest.fixture(autouse=True)
def _nothing_asked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate limits count the requests of a process: those of one test are not those of another."""
    monkeypatch.setattr(limits, "_counter", limits.Counter())
