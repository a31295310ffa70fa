"""What a door answers to a person, in the words of the table ``tests/data/doors.txt``.

Every answer is looked through on its way: for what belongs to another tenant, for links and buttons that the person
could not use, and, when it refuses, for anything that it changed.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from html import unescape
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urljoin

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db import connection, models
from django.test import RequestFactory
from django.test.client import ClientHandler
from django.urls import reverse

from tests.doors import Door, door_at, doors, table
from tests.scene import NAME, OTHER, WHY, Scene

REFUSED = {"401", "403", "404", "405", "login", "back"}
SAFE = "GET"
BOOKKEEPING = ("audit_", "django_session", "api_rateallotment")
"""Tables that a refusal may write to: it is recorded, counted and told to a session."""
NOTED = {"costs_statementexport", "tenants_apitoken"}
"""What looking writes: the first export of a month is kept, and a token's last use."""
_TAG = re.compile(r"<(?:a|form|button|div|section|tr|option)\b[^>]*>")
_ATTRIBUTE = re.compile(r'\s(href|action|method|hx-get|hx-post|value)="([^"]*)"')


_handler = ClientHandler(enforce_csrf_checks=False)


def _body(text: str) -> str:
    """What follows the headers, ids aside."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text.partition("\n{")[2])


def writes(first: str = "SELECT", then: str = "SELECT") -> Counter[str]:
    """Rows written so far by table, in the transaction that is going on, also by what was rolled back.

    In the same breath ``first`` is done before and ``then`` after: it is asked a thousand times.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"{first}; SELECT relname, n FROM pg_class, LATERAL (SELECT pg_stat_get_xact_tuples_inserted(oid)"
            " + pg_stat_get_xact_tuples_updated(oid) + pg_stat_get_xact_tuples_deleted(oid)) AS written (n)"
            f" WHERE n > 0 AND relkind = 'r' AND relnamespace = 'public'::regnamespace; {then}"
        )
        cursor.nextset()
        return Counter({name: n for name, n in cursor.fetchall() if not name.startswith(BOOKKEEPING)})


def _content(tables: set[str]) -> dict[str, Any]:
    with connection.cursor() as cursor:
        found = {}
        for name in sorted(tables):
            cursor.execute(f'SELECT count(*), sum(hashtextextended(t::text, 0)) FROM "{name}" t')
            found[name] = cursor.fetchone()
        return found


def text_of(response: Any) -> str:
    """All that a response tells: headers, and the body however it is packed."""
    body = b"".join(response.streaming_content) if response.streaming else response.content
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    if body[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            body = b"".join(packed.read(name) for name in packed.namelist())
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    return f"{headers}\n{body.decode('utf-8', 'replace')}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without a traceback in the log for each of a thousand refusals."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Walk:
    """One person before every door. ``faults`` collects what no table can allow."""

    def __init__(self, scene: Scene, who: str, *, by_token: bool = False) -> None:
        self.scene, self.who, self.by_token = scene, who, by_token
        self.factory = RequestFactory()
        self.factory.cookies = SimpleCookie() if by_token else deepcopy(scene.clients[who].cookies)
        self.headers = {"Authorization": f"Bearer {scene.tokens[who]}"} if by_token else {}
        self.faults: list[str] = []
        self._linked: set[str] = set()
        self._followed: set[str] = set()
        self._offered: set[str] = set()
        self._looked_at: list[str] = []
        self._written = writes()

    # -- one request ---------------------------------------------------------------------------------------------------

    def ask(self, method: str, address: str, body: Any = None) -> tuple[str, str]:
        """The word for the answer to a request, and all that it says. What it did is undone."""
        changed: set[str] = set()
        if method == SAFE:
            response = self._send(method, address, body)
            text = text_of(response)
            self._looked_at.append(address)
        else:
            before = writes("SAVEPOINT asked")
            self._verify_looking_changed_nothing(before)
            response = self._send(method, address, body)
            text = text_of(response)
            self._written = writes(then="ROLLBACK TO SAVEPOINT asked")
            changed = set((self._written - before).keys())
        self._look_through(method, address, body, text)
        word = self._word(response, text, (address, body), changed)
        if word in REFUSED and changed:
            self._verify_nothing_stays(method, address, body, changed)
        elif response.status_code == 200 and method == SAFE and "text/html" in response.headers.get("Content-Type", ""):
            self._follow(address, text)
        return word, text

    def _send(self, method: str, address: str, body: Any) -> Any:
        """Straight to the handler: Django's test client copies the context of every template on the way."""
        given: dict[str, Any] = {}
        if method != SAFE:
            in_json = address.startswith("/api/") or method != "POST"
            given = {"data": body or {}, **({"content_type": "application/json"} if in_json else {})}
        request = getattr(self.factory, method.lower())(address, headers=self.headers, **given)
        return _handler(request.environ)

    def _word(self, response: Any, text: str, asked: tuple[str, Any], changed: set[str]) -> str:
        address = asked[0]
        status, where = response.status_code, response.headers.get("Location", "")
        if status in (301, 302, 303, 307):
            if self.who == "nobody" and where.startswith(("/login/", "/admin/login/")):
                return "login"
            if changed:
                return "does"
            lists = (reverse("admin:index"), address.partition("?")[0].rsplit("/", 3)[0] + "/")
            return "back" if address.count("/") > 4 and where in lists else "goes"
        if status >= 400:
            return str(status)
        if changed:
            return "does"
        return "sees" if self.scene.planted(text, *asked) else "opens"

    def _look_through(self, method: str, address: str, body: Any, text: str) -> None:
        if self.who in ("nobody", "outsider"):
            if leaked := self.scene.planted(text, address, body):
                self.faults.append(f"{method} {address} tells the {self.who} of {NAME}: {sorted(leaked)}")
        elif self.who != "platform" and OTHER in text.lower():
            self.faults.append(f"{method} {address} tells {self.who} of {OTHER}, another tenant")

    def _verify_nothing_stays(self, method: str, address: str, body: Any, tables: set[str]) -> None:
        """Asks again: what a refusal wrote must have been rolled back by itself."""
        writes("SAVEPOINT asked")
        before = _content(tables)
        self._send(method, address, body)
        after = _content(tables)
        self._written = writes(then="ROLLBACK TO SAVEPOINT asked")
        if changed := {name for name in tables if before[name] != after[name]}:
            self.faults.append(f"{method} {address} refuses {self.who}, and changes {sorted(changed)}")

    def _verify_looking_changed_nothing(self, now: Counter[str]) -> None:
        if changed := sorted(name for name in now if now[name] != self._written[name] and name not in NOTED):
            self.faults.append(f"{changed} changed while {self.who} only looked at one of {self._looked_at}")
        self._looked_at.clear()

    # -- links and buttons ---------------------------------------------------------------------------------------------

    def _follow(self, address: str, text: str) -> None:
        """Notes links, forms and actions that a page offers and the table refuses to this person."""
        for tag in _TAG.findall(text):
            if tag in self._followed:
                continue
            found = dict(_ATTRIBUTE.findall(tag))
            targets = {name: found[name] for name in ("href", "action", "hx-get", "hx-post") if name in found}
            for name, target in targets.items():
                posts = name == "hx-post" or (name == "action" and found.get("method", "").lower() == "post")
                self._verify_usable(address, urljoin(address, unescape(target)), "POST" if posts else SAFE)
            if tag.startswith("<option"):
                self._verify_offered(address, found.get("value", ""))
            elif all(target.startswith("/") for target in targets.values()):  # it is the same from every page
                self._followed.add(tag)

    def _verify_offered(self, page: str, action: str) -> None:
        at = door_at(page.partition("?")[0], SAFE)
        name = f"{at[0].name}: {action}" if at and at[0].model else ""
        if name not in doors() or self.who == "outsider":
            return
        self._offered.add(name)
        if table().get(name, {}).get(self.who) in (*REFUSED, "no"):
            self.faults.append(f"{page} offers {self.who} the action {action}, which is refused")

    def _verify_usable(self, page: str, target: str, method: str) -> None:
        path = target.partition("?")[0].partition("#")[0]
        if not path.startswith("/") or path.startswith("/static/") or f"{method} {path}" in self._linked:
            return
        self._linked.add(f"{method} {path}")
        at = door_at(path, method)
        if at is None:
            self.faults.append(f"{page} leads {self.who} to {method} {path}, where there is nothing")
            return
        door, which = at
        if door.pattern == "/admin/<app_label>/" or (self.who == "outsider" and door.has_object):
            return  # of each app, and of each tenant, there is one; the table speaks of another
        says = table().get(door.name, {}).get(self.who, "")
        letter = {"add": "a", "delete": "d"}.get(which, "r")
        if (says not in ("own", "") and letter not in says) if which else says in REFUSED - {"login"}:
            self.faults.append(f"{page} leads {self.who} to {method} {path}, which is refused")

    # -- doors ---------------------------------------------------------------------------------------------------------

    def answer(self, door: Door) -> str:
        """The word of the table for this door."""
        if door.action:
            return self._action(door)
        if door.model:
            return self._model(door, door.model)
        address = self.scene.address(door, self.who)
        acts = door.method == "POST" and "<object_id>" in door.pattern
        body = self.scene.bodies.get(door.name, WHY if acts else None)
        word, text = self.ask(door.method, address, body)
        if self.who == "outsider" and word != "opens" and (door.has_object or NAME in json.dumps(body)):
            never, other = self.ask(door.method, self.scene.unknown(address), self.scene.unknown_body(body))
            differs = "application/json" in text and _body(text).replace(NAME, "nobody") != _body(other)
            if never != word or differs:
                self.faults.append(f"{door.name} answers the outsider {word}, and {never} where there is nothing")
        return word

    def _action(self, door: Door) -> str:
        assert door.model
        row = self.scene.acted_on(door)
        sent = {"action": door.action, "_selected_action": [str(row.pk)], "confirmed": "yes", "reason": "because"}
        word, _ = self.ask("POST", door.pattern, sent)
        if word in ("does", "login", "403"):
            return word
        return "goes" if door.name in self._offered else "no"

    def _model(self, door: Door, model: type[models.Model]) -> str:
        """The answer for the pages of a model: ``login``, ``403``, ``own``, or letters for what is allowed."""
        page = f"{door.pattern}{quote(self.scene.row(model).pk)}/"
        add, change = self.scene.forms(model)
        asked: list[tuple[str, str, str, Any]] = [
            ("list", SAFE, door.pattern, None),
            ("row", SAFE, f"{page}change/", None),
            ("history", SAFE, f"{page}history/", None),
            ("add", SAFE, f"{door.pattern}add/", None),
            ("added", "POST", f"{door.pattern}add/", add),
            ("changed", "POST", f"{page}change/", change),
            ("delete", SAFE, f"{page}delete/", None),
            ("deleted", "POST", f"{page}delete/", {"post": "yes", "reason": "because"}),
        ]
        answers = {name: self.ask(method, address, body) for name, method, address, body in asked}
        said = {name: word for name, (word, _) in answers.items()}
        about = getattr(admin.site._registry[model], "about", "")
        if self.who == "platform" and not all(about in unescape(answers[name][1]) for name in ("list", "row")):
            self.faults.append(f"{door.name} does not say what it is on its list and page")
        if self.who == "outsider":
            for name, method, address, body in asked:
                never = self.ask(method, self.scene.unknown(address), body)[0] if address.startswith(page) else ""
                if never != said[name] and said[name] in REFUSED and never:
                    self.faults.append(f"{name} of {door.name} is {said[name]}, and {never} where there is nothing")
        if set(said.values()) <= {"login"}:
            return "login"
        opens = {name: word not in REFUSED for name, word in said.items()}
        # A page that was saved leads to the list too.
        opens["changed"] = opens["row"] and said["changed"] in ("does", "sees", "opens", "back")
        if opens["list"] and not opens["row"]:
            kept = [name for name in ("row", "history", "changed", "delete", "deleted") if opens[name]]
            return "own" if not kept and said["added"] != "does" else f"own, but {kept or 'adds to others'}"
        if not any(opens.values()):
            return "403"
        letters = {
            "r": {opens["list"], opens["row"], opens["history"]},
            "a": {opens["add"], opens["added"]},
            "c": {opens["changed"]},
            "d": {opens["deleted"]},  # the page may open, to say what keeps the row
        }
        if any(len(agree) > 1 for agree in letters.values()):
            return " ".join(f"{name}:{word}" for name, word in said.items())
        return "".join(letter if True in agree else "-" for letter, agree in letters.items())
