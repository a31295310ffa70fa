"""A receiver of webhooks on loopback, and webhooks of tenants, for tests."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.utils import timezone

from apps.events.log import NewEvent, emit
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from apps.webhooks.actions import create_webhook
from apps.webhooks.models import Delivery, Webhook

BY = principal_of_command("test")


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Keeps what comes in. ``answer`` says what goes back: a status, headers and a body."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], tuple[int, dict[str, str], bytes]] = lambda request: (204, {}, b"")
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.received]


@contextmanager
def receiver(*, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Receiver]:
    """A real HTTP server with one thread a request; HTTPS with ``tls``."""
    state = Receiver(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            with state.lock:
                state.received.append(request)
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                status, headers, answer = state.answer(request)
            finally:
                with state.lock:
                    state.at_once -= 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            pass  # a sender that was killed, or that has read enough

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/hooks"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def hook_of(tenant: Tenant, url: str, name: str = "hook", kinds: tuple[str, ...] = ()) -> Webhook:
    """A webhook, made as a person makes one. Its secret is ``hook.signing_secret.reveal()``."""
    hook, _ = create_webhook(tenant=tenant, name=name, url=url, kinds=kinds, by=BY)
    return Webhook.objects.get(pk=hook.pk)


def happened(tenant: Tenant, kind: str = "task.succeeded", count: int = 1, **fields: Any) -> None:
    """Events of a tenant, now."""
    emit([NewEvent(kind, tenant.pk, **fields) for _ in range(count)])


def due(hook: Webhook, count: int = 1, *, at: dt.datetime | None = None) -> list[Delivery]:
    """Deliveries that may be sent, written straight to the table."""
    at = at or timezone.now()
    body = '{"type":"task.succeeded","timestamp":"2026-11-21T12:00:00Z","data":{}}'
    rows = [
        Delivery(
            webhook=hook, tenant_id=hook.tenant_id, event_id=n + 1, kind="task.succeeded", body=body, next_at=at,
            created_at=at,
        )
        for n in range(Delivery.objects.count(), Delivery.objects.count() + count)
    ]  # fmt: skip
    return Delivery.objects.bulk_create(rows)
