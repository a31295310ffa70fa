"""A person's way through a provider and back, without a browser."""

from __future__ import annotations

import datetime as dt
import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from django.test import Client

from apps.tenants.models import GroupRule, IdentityProvider, Match, Membership, Tenant, User
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider

PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {
        "preferred_username": "ada",
        "email": "ada@example.test",
        "given_name": "Ada",
        "family_name": "Lovelace",
        "groups": ["desk-operators"],
    },
    "bob": {"preferred_username": "bob", "email": "bob@example.test", "groups": ["canteen"]},
}


@pytest.fixture(scope="session")
def provider_process() -> Iterator[Provider]:
    """One provider for all tests of a process."""
    process = Provider()
    process.start()
    yield process
    process.stop()


@pytest.fixture
def provider(provider_process: Provider) -> Provider:
    """The provider, up, without faults, and with two people."""
    if not provider_process.is_running:
        provider_process.start()
    provider_process.set(people=PEOPLE, faults=[], groups_in="token")
    return provider_process


def make_row(provider: Provider, tenant: Tenant, **fields: Any) -> IdentityProvider:
    """The provider as the administration has it, with a rule: desk-operators are operators of the tenant."""
    row = IdentityProvider.objects.create(
        **{
            "slug": "sso",
            "name": "Test provider",
            "issuer": provider.issuer,
            "client_id": CLIENT_ID,
            "stored_secret": CLIENT_SECRET,
            **fields,
        }
    )
    GroupRule.objects.create(provider=row, match=Match.EXACT, group="desk-operators", tenant=tenant, role="operator")
    return row


@pytest.fixture
def idp(provider: Provider, acme: Tenant) -> IdentityProvider:
    return make_row(provider, acme)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


def answer_of(provider_url: str, person: str, choice: str = "in") -> str:
    """What the provider sends the browser back to, when a person logs in there: path and query."""
    parts = urlsplit(provider_url)
    form = urlencode({**dict(parse_qsl(parts.query)), "person": person, "choice": choice}).encode()
    opener = urllib.request.build_opener(_Stay)
    with pytest.raises(HTTPError) as raised:  # how urllib says that it was told to go elsewhere
        opener.open(f"{parts.scheme}://{parts.netloc}{parts.path}", form, timeout=20)
    assert raised.value.code == 302, raised.value.read()
    back = urlsplit(raised.value.headers["Location"])
    raised.value.close()
    return f"{back.path}?{back.query}"


def begin(client: Client, slug: str = "sso", **query: str) -> str:
    """Where the login page's button leads: the provider's address."""
    response = client.get(f"/login/with/{slug}/", query)
    assert response.status_code == 302, response.content.decode()
    return str(response["Location"])


def log_in(client: Client, person: str, slug: str = "sso", **query: str) -> Any:
    """The whole way; the response of the callback."""
    return client.get(answer_of(begin(client, slug, **query), person))


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def is_in(client: Client) -> bool:
    return client.get("/").status_code == 200


def roles_of(user: User) -> set[str]:
    return set(Membership.objects.filter(user=user).values_list("role", flat=True))


def age(idp: IdentityProvider, **by: dt.timedelta) -> None:
    """Makes what was fetched older: ``age(idp, discovered_at=...)``."""
    row = IdentityProvider.objects.get(pk=idp.pk)
    IdentityProvider.objects.filter(pk=idp.pk).update(**{name: getattr(row, name) - ago for name, ago in by.items()})
