"""One POST to a receiver: to an address that may be reached, in bounded time, and without following it anywhere."""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp

from apps.webhooks.addresses import REFUSED, guarded_socket
from apps.webhooks.policies import Answer
from portal.redaction import redacted

TOTAL_S = 15.0
"""From the look-up of the name to the end of what is read of the answer."""
CONNECT_S = 5.0
READ_BYTES = 2048
KEPT_CHARACTERS = 500
USER_AGENT = "Swarmdesk-Webhooks/1"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


@dataclass(frozen=True, slots=True)
class Post:
    """What is sent: a URL, the bytes of the body, and the headers that sign them."""

    url: str
    body: bytes
    headers: dict[str, str] = field(hash=False)


class Poster:
    """Two connection pools, for https and for plain http, that connect to nothing but what each may reach."""

    def __init__(self, *, total_s: float = TOTAL_S, connect_s: float = CONNECT_S) -> None:
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s)
        self._total_s = total_s

    async def __aenter__(self) -> Self:
        self._sessions = {
            scheme: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, use_dns_cache=False, socket_factory=guarded_socket(encrypted=scheme == "https")
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=self._timeout,
            )
            for scheme in ("https", "http")
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            await session.close()

    async def send(self, post: Post) -> Answer:
        """What came of it; every failure is an answer, too."""
        began = time.monotonic()
        try:
            status, text, retry_after_s = await self._exchange(post)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Answer(None, time.monotonic() - began, error=self._told(error))
        return Answer(status, time.monotonic() - began, text, _meaning(status), retry_after_s)

    async def _exchange(self, post: Post) -> tuple[int, str, float]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **post.headers,
        }
        session = self._sessions["https" if urlsplit(post.url).scheme == "https" else "http"]
        async with session.post(post.url, data=post.body, headers=headers, allow_redirects=False) as response:
            read = b""
            while len(read) < READ_BYTES and (chunk := await response.content.read(READ_BYTES - len(read))):
                read += chunk
            if not response.content.at_eof():
                response.close()  # whatever more it has to say is not waited for
            return response.status, excerpt(read), _retry_after_s(response.headers.get("Retry-After", ""))

    def _told(self, error: BaseException) -> str:
        """For the tenant's people: what went wrong, without the addresses of an inner network."""
        match error:
            case aiohttp.ClientConnectorCertificateError():
                return f"No safe connection: {_reason(error.certificate_error)}."
            case aiohttp.ClientConnectorSSLError():
                return f"No safe connection: {_reason(error.os_error)}."
            case aiohttp.ClientConnectorDNSError():
                return "The name of the host could not be looked up."
            case aiohttp.ConnectionTimeoutError():
                return f"No connection within {CONNECT_S:g} s."
            case TimeoutError():
                return f"No answer within {self._total_s:g} s."
            case aiohttp.ClientConnectorError() if REFUSED in str(error.os_error):
                return (
                    "Not sent: the host has no address that may be reached. It must be public and https://, or lie in "
                    "WEBHOOK_ALLOWED_NETWORKS."
                )
            case aiohttp.ClientConnectorError():
                return "The connection was refused, or could not be made."
            case aiohttp.InvalidURL() | ValueError():
                return "The URL cannot be used."
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return "The connection was lost before there was an answer."
        return f"The answer could not be understood ({type(error).__name__})."


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return "It redirects, and redirects are not followed: give the final URL."
    return ""


def excerpt(read: bytes) -> str:
    """The beginning of an answer as one line of text, without secrets and control characters."""
    text = redacted(_UNPRINTABLE.sub(" ", read.decode("utf-8", "replace")).strip())
    return text if len(text) <= KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]}…"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold, {error.verify_message}"
    return "TLS failed"


def _retry_after_s(text: str) -> float:
    """Seconds that the receiver asks to be left alone; 0 when it does not say, or not so that one can read it."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
