"""The console in a real browser, against a real web server: live without a reload, and complete after a break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import transaction
from django.utils import timezone

from apps.events.log import NewEvent, emit
from apps.events.models import Event
from apps.swarms import admission
from apps.swarms.models import Swarm, SwarmStatus, TaskStatus
from apps.tenants.models import Tenant, User
from tests import desk
from tests.artifacts import make_artifact
from tests.browser import Daphne, OpenTab, Tab, chromium, db, tab, web, web_of_module
from tests.running import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import WebSocketRoute

__all__ = ["chromium", "db", "tab", "web", "web_of_module"]
pytestmark = pytest.mark.browser

WIDTHS = [1280, 390, 360]


@pytest.fixture
def swarm(acme: Tenant, operator: User) -> Swarm:
    desk.models_for_sale()
    desk.platform_is_up()
    return desk.started(desk.spec("market-brief", items=8, replicas=4, budget_usd=1), acme, operator)


def events_shown(window: Tab) -> list[int]:
    """Ids of the events in the list, newest first."""
    shown: list[int] = window.page.eval_on_selector_all("[data-event]", "all => all.map(e => Number(e.dataset.event))")
    return shown


def events_of(swarm: Swarm) -> list[int]:
    return list(Event.objects.filter(swarm_id=swarm.pk).order_by("-id").values_list("id", flat=True))


def test_progress_moves_without_a_reload(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator)
    window.open(f"/swarms/{swarm.pk}/")
    window.page.evaluate("window.here = true")
    assert window.page.inner_text("[data-done]") == "0"
    desk.work(3)
    wait_until(lambda: window.page.inner_text("[data-done]") == "3", what="tasks that are done")
    assert window.page.get_attribute('[data-step="read"]', "data-state") in ("ready", "pending", "running")
    desk.finish(swarm)
    window.page.wait_for_selector('h1 [data-status="succeeded"]')
    assert window.page.inner_text("[data-percent]") == "100"
    wait_until(lambda: events_shown(window) == events_of(swarm)[:60], what="the list of events")
    assert window.page.evaluate("window.here"), "the page was loaded anew"
    assert window.complaints == []


def test_a_file_appears_without_a_reload_and_is_saved_under_its_name(  # E8
    tab: OpenTab, operator: User, swarm: Swarm
) -> None:
    window, content = tab(operator), b"<script>document.title = 'run'</script>"
    window.open(f"/swarms/{swarm.pk}/")
    window.page.evaluate("window.here = true")
    assert window.page.is_hidden("#part-files")
    with transaction.atomic():
        file = make_artifact(swarm.tasks.all()[0], "out/ü brief.html", content, media_type="text/html")
        emit([NewEvent("artifact.created", swarm.tenant_id, swarm.pk, file.task_id, {"size": file.size})])
    window.page.wait_for_selector("#part-files >> text=out/ü brief.html")
    with window.page.expect_download() as downloading:
        window.page.click("text=out/ü brief.html")
    assert downloading.value.suggested_filename == "ü brief.html"
    assert downloading.value.path().read_bytes() == content
    assert window.page.evaluate("window.here"), "the page was loaded anew"
    assert window.complaints == []


def test_the_overview_moves_from_queue_to_running_to_finished(
    tab: OpenTab, operator: User, acme: Tenant, swarm: Swarm
) -> None:
    window = tab(operator)
    window.open("/")
    window.page.evaluate("window.here = true")
    queued = desk.submitted(desk.spec("nightly-digest", items=1), acme, operator)
    window.page.wait_for_selector("#part-queue >> text=nightly-digest")
    admission.admit(now=timezone.now())
    window.page.wait_for_selector("#part-running >> text=nightly-digest")
    desk.finish(queued)
    window.page.wait_for_selector("#part-finished >> text=nightly-digest")
    assert "nightly-digest" not in window.page.inner_text("#part-running")
    assert window.page.evaluate("window.here")
    assert window.complaints == []


def test_a_socket_that_was_killed_and_came_back_has_missed_nothing(
    tab: OpenTab, web: Daphne, operator: User, swarm: Swarm
) -> None:
    window = tab(operator)
    window.open(f"/swarms/{swarm.pk}/")
    window.page.evaluate("window.here = true")
    desk.work(2)
    wait_until(lambda: events_shown(window) == events_of(swarm), what="the list before the break")
    web.kill()
    window.page.wait_for_selector('#live[data-state="reconnecting"]', state="attached")
    desk.work(3)
    desk.work(1)
    missed = events_of(swarm)
    assert len(missed) > len(events_shown(window))
    web.start()
    window.page.wait_for_selector('#live[data-state="live"]', state="attached", timeout=30_000)
    wait_until(lambda: events_shown(window) == missed, what="the list after the break")
    wait_until(lambda: window.page.inner_text("[data-done]") == "6", what="tasks that are done")
    desk.work(1)
    wait_until(lambda: events_shown(window) == events_of(swarm), what="the list after what came live")
    assert window.page.evaluate("window.here"), "the page was loaded anew"


def test_a_network_that_failed_for_a_while_has_hidden_nothing(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator, new=True)
    open_sockets, is_down = [], False

    def route(socket: WebSocketRoute) -> None:
        if is_down:
            socket.close(code=1011)
        else:
            socket.connect_to_server()
            open_sockets.append(socket)

    window.page.route_web_socket("**/ws/console/**", route)
    window.open(f"/swarms/{swarm.pk}/")
    is_down = True
    open_sockets.pop().close(code=1011)
    window.page.wait_for_selector('#live[data-state="reconnecting"]', state="attached")
    desk.work(4)
    is_down = False
    window.page.wait_for_selector('#live[data-state="live"]', state="attached")
    wait_until(lambda: events_shown(window) == events_of(swarm), what="the list")


def test_the_outsider_gets_nothing(tab: OpenTab, outsider: User, swarm: Swarm) -> None:
    window = tab(outsider)
    window.open("/")
    heard = window.page.evaluate(
        """swarm => new Promise(done => {
            const heard = [];
            const socket = new WebSocket(`ws://${location.host}/ws/console/?after=0`);
            socket.onmessage = message => heard.push(JSON.parse(message.data));
            socket.onopen = () => socket.send(JSON.stringify({type: "subscribe", swarm}));
            setTimeout(() => done(heard), 1500);
        })""",
        str(swarm.pk),
    )
    # How providers do is everybody's business: the log may tell of it. Of a tenant it tells nothing.
    events = [message for message in heard if message["type"] == "event"]
    assert [message["tenant"] for message in events if message["tenant"]] == []
    assert {message["kind"].partition(".")[0] for message in events} <= {"breaker", "region", "provider"}
    assert [message["type"] for message in heard if message not in events] == ["error"]
    assert "market-brief" not in window.page.content()
    response = window.page.goto(f"{window.web.url}/swarms/{swarm.pk}/")
    assert response
    assert response.status == 404


def test_the_viewer_cannot_terminate(tab: OpenTab, viewer: User, swarm: Swarm) -> None:
    window = tab(viewer)
    window.open(f"/swarms/{swarm.pk}/")
    assert window.page.locator("text=Terminate").count() == 0
    status = window.page.evaluate(
        """async path => {
            const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
            const body = new URLSearchParams({reason: "because", csrfmiddlewaretoken: token});
            return (await fetch(path, {method: "POST", body})).status;
        }""",
        f"/swarms/{swarm.pk}/terminate/",
    )
    assert status == 403
    swarm.refresh_from_db()
    assert swarm.status == SwarmStatus.RUNNING


def test_terminating_takes_two_clicks_and_a_reason(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator)
    window.open(f"/swarms/{swarm.pk}/")
    window.page.click("text=Terminate…")
    window.page.click("dialog >> button:has-text('Terminate')")
    assert window.page.is_visible("dialog"), "without a reason nothing is sent"
    window.page.fill("#terminate-reason", "wrong prompt")
    desk.work(1)  # the parts behind the dialog load anew, and what was typed stays
    wait_until(lambda: window.page.inner_text("[data-done]") == "1", what="tasks that are done")
    assert window.page.input_value("#terminate-reason") == "wrong prompt"
    window.page.click("dialog >> button:has-text('Terminate')")
    window.page.wait_for_selector("text=market-brief is being terminated")
    swarm.refresh_from_db()
    assert (swarm.status, swarm.status_reason) == (SwarmStatus.TERMINATED, "wrong prompt")
    assert window.complaints == []


def test_the_keyboard_is_enough_to_terminate(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator)
    window.open(f"/swarms/{swarm.pk}/")
    window.page.focus("text=Terminate…")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("dialog[open]")
    window.page.keyboard.press("Escape")
    window.page.wait_for_selector("dialog[open]", state="hidden")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("dialog[open]")
    window.page.keyboard.type("not needed")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("text=is being terminated")


def test_focus_stays_where_it_is_while_parts_load_anew(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator)
    window.open("/")
    window.page.focus("#part-running a.sd-run-name")
    desk.work(2)
    window.page.wait_for_selector("#part-running >> text=2/9 tasks")
    assert window.page.evaluate("document.activeElement.textContent") == "market-brief"


def test_someone_who_is_logged_out_elsewhere_is_led_to_the_login(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    from django.contrib.sessions.models import Session

    window = tab(operator)
    window.open("/")
    Session.objects.all().delete()
    desk.work(1)  # the part that this moves is asked for, and refused
    window.page.wait_for_url("**/login/**")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_page_is_wider_than_its_window_or_complains(
    tab: OpenTab, operator: User, acme: Tenant, swarm: Swarm, dark: bool
) -> None:
    desk.work(2)
    desk.started(desk.spec("a-name-that-goes-on-and-on-" + "x" * 60, items=2), acme, operator)
    desk.work(2, status=TaskStatus.FAILED, error="https://very.long/" + "path" * 80)
    task = swarm.tasks.first()
    assert task
    window, stranger = tab(operator, dark=dark), tab(dark=dark)
    for width in WIDTHS:
        for each in (window, stranger):
            each.page.set_viewport_size({"width": width, "height": 900})
        for path in ("/", "/swarms/", "/submit/?example=market-brief", f"/swarms/{swarm.pk}/", f"/tasks/{task.pk}/"):
            window.open(path)
            assert window.overflow() == 0, f"{path} at {width}"
            assert window.page.evaluate("document.documentElement.classList.contains('dark')") is dark
        assert window.complaints == []
        stranger.open("/login/")
        assert stranger.overflow() == 0
        assert stranger.complaints == []


def test_the_theme_is_chosen_with_a_click_and_kept(tab: OpenTab, operator: User, swarm: Swarm) -> None:
    window = tab(operator)
    window.open("/")
    window.page.click("[data-theme-switch]")
    window.page.click("[data-theme-switch]")
    assert window.page.evaluate("document.documentElement.className") == "dark"
    window.open("/swarms/")
    assert window.page.evaluate("document.documentElement.className") == "dark"


def test_a_spec_with_errors_keeps_what_was_typed_and_leads_to_the_line(
    tab: OpenTab, operator: User, swarm: Swarm
) -> None:
    window = tab(operator)
    window.open("/submit/")
    window.page.click("[data-load-example=example-market-brief]")
    spec = window.page.input_value("#spec")
    window.page.fill("#spec", spec.replace("agent: writer", "agent: wirter"))
    window.page.click("button:has-text('Submit')")
    window.page.wait_for_selector("text=1 thing to mend")
    window.page.click("[data-go-to-line]")
    selected = "(e => e.value.slice(e.selectionStart, e.selectionEnd))(document.getElementById('spec'))"
    assert "wirter" in window.page.evaluate(selected)
    window.page.fill("#spec", spec)
    window.page.click("button:has-text('Submit')")
    window.page.wait_for_selector("text=market-brief is submitted")
