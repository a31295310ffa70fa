"""What every answer tells the browser not to do, whatever kind of answer it is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from csp.decorators import csp_update
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.utils.html import escape

from apps.tenants.models import User
from portal import headers, refusals
from portal.headers import SecurityHeaders

pytestmark = pytest.mark.django_db

EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
}
Ask = Callable[[Client], Any]
# (what is asked, status, kind of policy)
ANSWERS: list[tuple[Ask, int, str]] = [
    (lambda c: c.get("/"), 200, "strict"),
    (lambda c: c.get("/swarms/"), 200, "strict"),
    (lambda c: Client().get("/login/"), 200, "strict"),
    (lambda c: Client().get("/"), 302, "strict"),
    (lambda c: c.get("/nothing/"), 404, "strict"),
    (lambda c: Client(enforce_csrf_checks=True).post("/login/"), 403, "strict"),
    (lambda c: c.get("/", HTTP_HOST="elsewhere.example"), 400, "strict"),
    (lambda c: c.get("/static/swarmdesk.css"), 200, "strict"),
    (lambda c: c.get("/livez"), 503, "strict"),
    (lambda c: c.get("/api/v1/me/"), 200, "strict"),
    (lambda c: Client().get("/api/v1/me/"), 401, "strict"),
    (lambda c: c.get("/api/v1/nothing/"), 404, "strict"),
    (lambda c: c.get("/api/schema/"), 200, "strict"),
    (lambda c: c.get("/api/docs/"), 200, "docs"),
    (lambda c: c.get("/admin/"), 200, "admin"),
    (lambda c: c.get("/admin/swarms/swarm/"), 200, "admin"),
    (lambda c: c.get("/admin/nothing/"), 404, "admin"),
]


def policy(response: Any) -> dict[str, set[str]]:
    parts = [part.split() for part in response.headers["Content-Security-Policy"].split("; ")]
    return {name: set(sources) for name, *sources in parts}


@pytest.mark.parametrize(("ask", "status", "kind"), ANSWERS)
def test_every_answer_has_every_header(ask: Ask, status: int, kind: str, platform_admin: User) -> None:
    client = Client()
    client.force_login(platform_admin)
    response = ask(client)
    assert response.status_code == status
    assert {name: response.headers.get(name) for name in EVERYWHERE} == EVERYWHERE
    assert "camera=()" in response.headers["Permissions-Policy"]
    assert response.headers["Cache-Control"]
    found = policy(response)
    assert found["default-src"] == found["base-uri"] == found["frame-ancestors"] == {"'none'"}
    assert found["form-action"] == found["connect-src"] == found["font-src"] == {"'self'"}
    assert found["script-src"] == ({"'self'", "'unsafe-eval'"} if kind == "admin" else {"'self'"})
    if kind == "strict":
        assert "'unsafe-inline'" not in found["style-src"]


@pytest.mark.parametrize("address", ["/", "/nothing/", "/submit/"])
def test_a_style_element_has_its_own_nonce_each_time(address: str, viewer: User, client: Client) -> None:
    client.force_login(viewer)
    nonces = set()
    for _ in range(2):
        response = client.get(address)
        [nonce] = policy(response)["style-src"] - {"'self'"}
        assert f'<style nonce="{nonce[7:-1]}">' in response.content.decode()
        nonces.add(nonce)
    assert len(nonces) == 2


def test_a_page_that_fails_is_plain_and_has_the_headers_too(
    platform_admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a detail of ours")

    monkeypatch.setattr("apps.console.views.overview.Overview.get", fail)
    client = Client(raise_request_exception=False)
    client.force_login(platform_admin)
    response = client.get("/")
    assert response.status_code == 500
    assert policy(response)["script-src"] == {"'self'"}
    assert "Something broke" in response.content.decode()
    assert "a detail of ours" not in response.content.decode()


@pytest.mark.parametrize("path", ["/", "/admin/", "/api/v1/me/", "/static/swarmdesk.css", "/livez"])
def test_a_host_that_is_not_ours_gets_a_plain_400(path: str, client: Client) -> None:
    response: Any = client.get(path, HTTP_HOST="elsewhere.example")
    assert response.status_code == (400 if not path.startswith("/static/") else 200)
    body = b"".join(response.streaming_content) if response.streaming else response.content
    assert b"elsewhere.example" not in body
    assert b"Traceback" not in body
    assert b"<style" not in body


def test_what_is_to_be_saved_can_do_nothing_when_it_is_shown() -> None:
    answer = HttpResponse("<script>alert(1)</script>", headers={"Content-Disposition": 'attachment; filename="x.html"'})
    request = RequestFactory().get("/")
    request.resolver_match = None
    response: Any = SecurityHeaders(lambda _: answer)(request)
    assert policy(response) == {"default-src": {"'none'"}, "frame-ancestors": {"'none'"}, "sandbox": set()}


def test_what_is_refused_is_told_to_each_in_its_own_words() -> None:
    request = RequestFactory().get("/")
    for sentence in ("Ask <finance>.", "Ask the owner.", "Ask <finance>."):
        page = refusals.forbidden(request, PermissionDenied(sentence)).content.decode()
        assert escape(sentence) in page
        assert "Ask an administrator" in page
    assert "Your role does not allow this." in refusals.forbidden(request, PermissionDenied()).content.decode()


@pytest.mark.parametrize("nonce", [None, "abc"])
@pytest.mark.parametrize("app", ["console", "admin"])
def test_a_view_can_add_to_the_policy_and_without_that_it_is_the_librarys(app: str, nonce: str | None) -> None:
    def header(decorated: Any) -> dict[str, set[str]]:
        request: Any = RequestFactory().get("/")
        request.resolver_match = SimpleNamespace(app_name=app, view_name="")
        request._csp_nonce = nonce
        return policy(SecurityHeaders(decorated)(request))

    def plain(_: Any) -> HttpResponse:
        return HttpResponse()

    usual = header(plain)
    assert header(csp_update({})(plain)) == usual
    assert header(csp_update({"img-src": "https://example.test"})(plain)) == usual | {
        "img-src": usual["img-src"] | {"https://example.test"}
    }


def test_a_view_that_knows_better_is_left_alone() -> None:
    answer = HttpResponse(headers={"Cache-Control": "public", "Content-Security-Policy": "default-src 'self'"})
    request = RequestFactory().get("/")
    request.resolver_match = None
    response: Any = SecurityHeaders(lambda _: answer)(request)
    assert response.headers["Cache-Control"] == "public"
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"


def test_no_policy_allows_inline_scripts_or_other_hosts() -> None:
    text = repr([headers.STRICT, headers.ADMIN, headers.DOCS, headers.FILE])
    assert "http" not in text
    assert "*" not in text
    for each in (headers.STRICT, headers.ADMIN, headers.DOCS):
        assert "'unsafe-inline'" not in each["script-src"]
