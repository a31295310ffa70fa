"""A real web server and a real browser for tests; both are processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.db import connection

from apps.swarms.models import ResourcePool
from apps.tenants.models import User
from portal.sessions import SessionStore
from tests.databases import database_in_use, new_database
from tests.forks import WEB, Forked
from tests.processes import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
"""In order of preference: the first is the same engine without a desktop's parts, at half the processor time."""
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Daphne:
    """The web process, on a port that stays the same when it is killed and started again."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {
            **os.environ,
            "DATABASE_URL": database_url,
            "STANDALONE": "true",
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "LOG_FORMAT": "console",
            "LOGIN_LIMIT_NAME": "0",  # the tests of one process log in from one address, with few names
            "LOGIN_LIMIT_ADDRESS": "0",
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",  # where the receivers of tests are
        }
        self._process: Forked | None = None

    def start(self) -> None:
        command = ("-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "portal.asgi:application")
        self._process = Forked(*command, ahead=WEB, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pause = threading.Event()
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                errors = self._process.stderr.read() if self._process.stderr else ""
                pytest.fail(f"daphne did not start:\n{errors}")
            pause.wait(0.1)

    def kill(self) -> None:
        """Ends it without a word, as a crash would."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            if self._process.stderr:
                self._process.stderr.close()
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None


@pytest.fixture(scope="session")
def web_server(django_db_setup: None, django_db_blocker: Any) -> Iterator[Daphne]:
    """One web server for all the tests of a process, and the database it uses: it takes seconds to start."""
    with django_db_blocker.unblock(), new_database() as url:
        server = Daphne(url)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="module")
def web_of_module(web_server: Daphne, django_db_blocker: Any) -> Iterator[Daphne]:
    """The web server. Its database is Django's for all the tests of the module."""
    with django_db_blocker.unblock(), database_in_use(web_server.database_url):
        yield web_server


@pytest.fixture
def db(web_of_module: Daphne, django_db_blocker: Any) -> Iterator[None]:
    """The web server's database, without the rows of earlier tests (the event log goes on, as it does in real life)."""
    with django_db_blocker.unblock():
        connection.close()  # under the browser's event loop Django has another one, maybe of a while ago
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(_EMPTIED)} CASCADE")
        ResourcePool.objects.update(agents_used=0, memory_gb_used=0, cpu_used=0, swarms_used=0)
        yield
        connection.close()


_EMPTIED = (
    "tenants_tenant",
    "tenants_user",
    "tenants_identityprovider",
    "axes_accessattempt",
    "django_session",
    "execution_tick",
    "execution_runner",
    "providers_provider",
    "costs_accruedhour",
)


@pytest.fixture
def web(db: None, web_of_module: Daphne) -> Daphne:
    """A running web server."""
    if not web_of_module.is_running:
        web_of_module.start()
    return web_of_module


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser; where there is none, the test is skipped.

    It ends with its module, because the event loop that it keeps in this thread would be in the way of async tests.
    """
    path = next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *BROWSERS))), None)
    if not path:
        pytest.skip("no Chromium: apt-get install chromium-headless-shell, or name one in CHROMIUM, and run again")
    with _playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _playwright() -> Iterator[Any]:
    """Playwright keeps an event loop in this thread, so Django must be told that the database may be used here."""
    from playwright.sync_api import sync_playwright

    known = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        with sync_playwright() as playwright:
            yield playwright
    finally:
        if known is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def session_of(user: User) -> str:
    """The key of a session in which the user is logged in."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "apps.tenants.authentication.LocalBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


class Tab:
    """A browser window of a person, with everything that its console complained about in ``complaints``."""

    def __init__(self, page: Page, web: Daphne) -> None:
        self.page = page
        self.web = web
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.set_default_timeout(15_000)

    def open(self, path: str) -> None:
        """Opens a page and waits until it is live."""
        self.page.goto(self.web.url + path)
        if "/login/" not in self.page.url:
            self.page.wait_for_selector('#live[data-state="live"]', state="attached")

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


OpenTab = Callable[..., Tab]


class Windows:
    """The windows of a module's tests, each with its own cookies and storage: a new one takes the browser a second.

    What a test gives back is the next one's when nothing is left in it but the cache, as in a browser used before.
    """

    def __init__(self, browser: Browser, site: str) -> None:
        self._browser = browser
        self._site = site
        self._free: list[Page] = []

    def take(self, *, width: int, height: int, dark: bool, new: bool) -> Page:
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        if new or not self._free:
            context = self._browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            return context.new_page()
        page = self._free.pop(0)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        return page

    def give_back(self, page: Page) -> None:
        if page.is_closed() or len(page.context.pages) > 1:
            page.context.close()
            return
        page.evaluate("location.protocol.startsWith('http') && sessionStorage.clear()")
        page.goto("about:blank")
        page.context.clear_cookies()
        page.context.clear_permissions()
        page.unroute_all()
        page.context.unroute_all()
        browser = page.context.new_cdp_session(page)
        kinds = "cookies,local_storage,indexeddb,cache_storage,service_workers"
        browser.send("Storage.clearDataForOrigin", {"origin": self._site, "storageTypes": kinds})
        browser.send("Page.resetNavigationHistory")
        browser.detach()
        self._free.append(page)


@pytest.fixture(scope="module")
def windows(chromium: Browser, web_of_module: Daphne) -> Windows:
    return Windows(chromium, web_of_module.url)


@pytest.fixture
def tab(web: Daphne, windows: Windows) -> Iterator[OpenTab]:
    """Makes a window for a user: ``tab(owner, width=390, dark=True)``.

    With ``new=True`` nobody used it before or will: for a test that gives its page scripts, answers dialogues for it or
    comes between it and its sockets.
    """
    taken: list[tuple[Page, bool]] = []

    def make(
        user: User | None = None, *, width: int = 1280, height: int = 900, dark: bool = False, new: bool = False
    ) -> Tab:
        page = windows.take(width=width, height=height, dark=dark, new=new)
        taken.append((page, new))
        if user:
            page.context.add_cookies([{"name": "sessionid", "value": session_of(user), "url": web.url}])
        return Tab(page, web)

    yield make
    for page, new in taken:
        if new:
            page.context.close()
        else:
            windows.give_back(page)
