"""A simulated model provider: OpenAI-compatible HTTP whose answers, token usage, delays and faults repeat exactly.

It needs no database, no Django and no account. Every choice is drawn from a hash of the seed and the request's body, so
the same request has the same answer, usage and delay in every run; errors are drawn from the seed and the count of
requests, so that a retry may succeed.

Models: any name works. Those of ``FAULTS`` misbehave on purpose. Who offers the tool ``save_file`` and writes "save it
as brief.md" in the prompt gets a call of that tool first, and the answer when the tool's result is in.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NoReturn

from aiohttp import web

from apps.providers.simulated_text import compose, topic_of

MODELS = ("small", "large")
FAULTS = {
    "fail-bad-request": "answers 400",
    "fail-server": "answers 500",
    "fail-rate-limit": "answers 429",
    "fail-once": "answers 409 the first time it sees a request, and well from then on",
    "hang": "never answers",
    "overbill": "reports more completion tokens than were allowed",
}
OUTAGE_MODES = ("refuse", "hang", "500", "429", "slow")
SLOW_FACTOR = 10
_SAVE_AS = re.compile(r"\bsave (?:it|this|them|the \w+) as ([\w./-]+\.\w+)", re.IGNORECASE)
_DEFAULT_MAX_TOKENS = 4096
_LARGEST_BODY = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What the provider is like. Times in milliseconds; ``error_rate`` is a share from 0 to 1."""

    port: int
    latency_ms: float = 200.0
    jitter_ms: float = 0.0
    error_rate: float = 0.0
    seed: int = 0
    region: str = "sim"
    api_key: str = ""


class Simulator:
    """The state and the answers of one simulated region."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._key = blake2b(f"{options.seed}".encode(), digest_size=16).digest()
        self._errors = random.Random(f"errors {options.seed} {options.region}")
        # By the digest of each key that is taken; none: any key is, or no key.
        self._keys: set[str] = {_digest(options.api_key)} if options.api_key else set()
        self.by_key: dict[str, dict[str, int]] = {}
        self._seen: set[bytes] = set()
        self._dark_until = 0.0
        self._dark_mode = "refuse"
        self.listed = 0
        self.asked = 0
        self.being_asked = 0
        self.peak_being_asked = 0
        self.requests = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.refused = 0
        self.statuses: Counter[int] = Counter()
        self.by_model: dict[str, dict[str, int]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        path = request.path
        if path == "/v1/chat/completions":
            if request.method != "POST":
                return _failure(405, "Use POST.", "method_not_allowed")
            self.requests += 1
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            try:
                return await self._complete(request)
            finally:
                self.in_flight -= 1
        if path == "/v1/models" and "json" in request.headers.get(
            "Accept", ""
        ):  # who only asks whether it is up does not
            self.listed += 1
            if outage := await self._pass_outage(request):
                return outage
            if (
                self._keys
                and _digest(request.headers.get("Authorization", "").removeprefix("Bearer ")) not in self._keys
            ):
                return _failure(401, "The API key is wrong.", "invalid_api_key")
            return _json(200, _models())
        if path == "/v1/models":
            self.asked += 1
            self.being_asked += 1
            self.peak_being_asked = max(self.peak_being_asked, self.being_asked)
            try:
                if outage := await self._pass_outage(request):
                    return outage
            finally:
                self.being_asked -= 1
            return _json(200, _models())
        if path == "/health":
            dark = self._dark()
            return _json(503 if dark else 200, {"status": "dark" if dark else "ok", "region": self.options.region})
        if path == "/simulator/stats":
            return _json(200, self.stats())
        if path == "/simulator/outage" and request.method == "POST":
            return self._set_outage(await request.read())
        if path == "/simulator/keys" and request.method == "POST":
            return self._set_keys(await request.read())
        return _failure(404, f"Nothing is served at {path}.", "not_found")

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if outage := await self._pass_outage(request):
            return outage
        if self._keys and not self._takes(request.headers.get("Authorization", "")):
            return self._count(_failure(401, "The API key is wrong.", "invalid_api_key"))
        draw = int.from_bytes(blake2b(body, digest_size=16, key=self._key).digest(), "big")
        try:
            call = _Call.read(body)
        except ValueError as error:
            return self._count(_failure(400, str(error), "invalid_request_error"))
        if call.model == "hang":
            await asyncio.Event().wait()
        delay = self.options.latency_ms + self.options.jitter_ms * (draw >> 96) / 2**32
        if self._dark():
            delay *= SLOW_FACTOR  # every other outage has ended the request before
        if delay > 0:
            await asyncio.sleep(delay / 1000)
        if failure := self._fault(call, draw):
            return self._count(failure)
        return self._count(self._answer(call, draw))

    def _fault(self, call: _Call, draw: int) -> web.Response | None:
        # One number is drawn for every call, so that the errors of a run depend on nothing but its seed and order.
        unlucky = self.options.error_rate > 0 and self._errors.random() < self.options.error_rate
        match call.model:
            case "fail-bad-request":
                return _failure(400, "This model refuses every request.", "invalid_request_error")
            case "fail-server":
                return _failure(500, "This model always fails.", "server_error")
            case "fail-rate-limit":
                return _failure(429, "This model is always over its rate.", "rate_limit_exceeded")
            case "fail-once":
                mark = draw.to_bytes(16, "big")
                if mark not in self._seen:
                    self._seen.add(mark)
                    return _failure(409, "The model is being loaded. Try again.", "model_not_ready")
        if unlucky:
            status, message, code = (
                (500, "The server had an error.", "server_error"),
                (503, "The engine is overloaded.", "overloaded"),
                (429, "Too many requests.", "rate_limit_exceeded"),
            )[self._errors.randrange(3)]
            return _failure(status, message, code)
        return None

    def _answer(self, call: _Call, draw: int) -> web.Response:
        prompt_tokens = min(call.content_bytes, call.content_bytes // 4 + 4 * call.messages)
        wanted = 24 + draw % (72 if call.model == "small" else 160)
        completion_tokens = min(wanted, call.max_tokens)
        finish = "stop" if wanted <= call.max_tokens else "length"
        text = compose(call.topic, draw, completion_tokens)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if call.save_as:
            written = json.dumps({"name": call.save_as, "content": f"# {call.topic.capitalize()}\n\n{text}\n"})
            function = {"name": "save_file", "arguments": written}
            message |= {"content": None, "tool_calls": [{"id": f"call_{draw:032x}", "type": "function"}]}
            message["tool_calls"][0]["function"] = function
            finish = "tool_calls"
        if call.model == "overbill":
            completion_tokens = call.max_tokens * 2 + 1000
        tally = self.by_model.setdefault(call.model, {"answers": 0, "prompt_tokens": 0, "completion_tokens": 0})
        tally["answers"] += 1
        tally["prompt_tokens"] += prompt_tokens
        tally["completion_tokens"] += completion_tokens
        return web.Response(
            body=(
                f'{{"id":"chatcmpl-sim-{draw:032x}","object":"chat.completion","created":{int(time.time())},'
                f'"model":{json.dumps(call.model)},"choices":[{{"index":0,"message":{json.dumps(message)},'
                f'"logprobs":null,"finish_reason":"{finish}"}}],'
                f'"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},'
                f'"total_tokens":{prompt_tokens + completion_tokens}}},'
                f'"system_fingerprint":{json.dumps(self.options.region)}}}'
            ).encode(),
            content_type="application/json",
        )

    def _count(self, response: web.Response) -> web.Response:
        self.statuses[response.status] += 1
        return response

    # -- keys --------------------------------------------------------------------------------------------------------

    def _takes(self, authorization: str) -> bool:
        digest = _digest(authorization.removeprefix("Bearer "))
        tally = self.by_key.setdefault(digest, {"taken": 0, "refused": 0})
        taken = digest in self._keys
        tally["taken" if taken else "refused"] += 1
        return taken

    def _set_keys(self, body: bytes) -> web.Response:
        """From now on exactly these keys are taken; calls under way are answered."""
        try:
            keys = json.loads(body or b"{}").get("accepted")
        except (ValueError, AttributeError):
            keys = None
        if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
            return _failure(400, 'Send {"accepted": ["key", ...]}; an empty list takes any.', "invalid_request_error")
        self._keys = {_digest(key) for key in keys}
        return _json(200, {"region": self.options.region, "accepted": sorted(self._keys)})

    # -- outages -----------------------------------------------------------------------------------------------------

    def _dark(self) -> bool:
        return time.monotonic() < self._dark_until

    async def _pass_outage(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """None when all is well; otherwise the outage happens to this request."""
        if not self._dark() or self._dark_mode == "slow":
            return None
        self.refused += 1
        if self._dark_mode == "500":
            return _failure(500, "The region is down.", "server_error")
        if self._dark_mode == "429":
            return _failure(429, "The region has too many calls.", "rate_limit_exceeded")
        if self._dark_mode == "hang":
            await asyncio.Event().wait()
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError

    def _set_outage(self, body: bytes) -> web.Response:
        try:
            wish = json.loads(body or b"{}")
            seconds = wish.get("seconds")
            mode = str(wish.get("mode", "refuse"))
            lasts = float("inf") if seconds is None else float(seconds)
        except (ValueError, TypeError, AttributeError):
            return _failure(400, 'Send {"seconds": number or null, "mode": "refuse"}.', "invalid_request_error")
        if mode not in OUTAGE_MODES or lasts < 0:
            return _failure(
                400, f"mode is one of {', '.join(OUTAGE_MODES)}; seconds is 0 or more.", "invalid_request_error"
            )
        self._dark_until = time.monotonic() + lasts if lasts else 0.0
        self._dark_mode = mode
        return _json(200, {"region": self.options.region, "seconds": seconds, "mode": mode, "dark": self._dark()})

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""
        return {
            "region": self.options.region,
            "requests": self.requests,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "refused": self.refused,
            "listed": self.listed,
            "asked": self.asked,
            "peak_being_asked": self.peak_being_asked,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "models": self.by_model,
            "keys": self.by_key,
            "prompt_tokens": sum(tally["prompt_tokens"] for tally in self.by_model.values()),
            "completion_tokens": sum(tally["completion_tokens"] for tally in self.by_model.values()),
            "cpu_seconds": round(time.process_time(), 3),
        }


@dataclass(frozen=True, slots=True)
class _Call:
    """What matters of a chat completion request. ``save_as`` names the file that is to be saved before the answer."""

    model: str
    messages: int
    content_bytes: int
    topic: str
    max_tokens: int
    save_as: str = ""

    @classmethod
    def read(cls, body: bytes) -> _Call:
        """Parses a body; raises ValueError with what is wrong with it."""
        try:
            wish = json.loads(body)
        except ValueError:
            raise ValueError("The body is not JSON.") from None
        if not isinstance(wish, dict) or not isinstance(wish.get("model"), str):
            raise ValueError("model is missing.")
        messages = wish.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ValueError("messages must be a list with at least one message.")
        if wish.get("stream"):
            raise ValueError("The simulator does not stream: leave stream out.")
        limit = wish.get("max_completion_tokens", wish.get("max_tokens"))
        limit = _DEFAULT_MAX_TOKENS if limit is None else limit
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError("max_completion_tokens must be a whole number above 0.")
        texts = [_text_of(message.get("content")) for message in messages]
        asked = next((text for m, text in zip(messages[::-1], texts[::-1], strict=True) if m.get("role") == "user"), "")
        return cls(
            model=wish["model"],
            messages=len(messages),
            content_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
            topic=topic_of(asked or texts[-1]),
            max_tokens=limit,
            save_as=_to_save(asked, messages[-1], wish.get("tools")),
        )


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def _to_save(prompt: str, last: dict[str, Any], tools: Any) -> str:
    """The name in "save it as NAME", where the tool for that is offered and was not called yet."""
    offered = isinstance(tools, list) and any(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and tool["function"].get("name") == "save_file"
        for tool in tools
    )
    found = _SAVE_AS.search(prompt) if offered and last.get("role") == "user" else None
    return found[1] if found else ""


def _digest(key: str) -> str:
    """What stands for a key in statistics."""
    return blake2b(key.encode(), digest_size=4).hexdigest()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "simulator"}


def _models() -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in (*MODELS, *FAULTS)]}


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, body=json.dumps(document).encode(), content_type="application/json")


def _failure(status: int, message: str, code: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 and status != 429 else code
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return web.Response(
        status=status,
        headers=headers,
        body=json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode(),
        content_type="application/json",
    )


class CannotListen(Exception):
    """The port is taken, or may not be used."""


async def serve(options: Options, *, started: Callable[[], None] = lambda: None) -> None:
    """Serves on 127.0.0.1 until SIGTERM or SIGINT. Raises CannotListen."""
    simulator = Simulator(options)
    server = web.Server(simulator.handle, handler_cancellation=True, access_log=None, max_line_size=16 * 1024)
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(server, "127.0.0.1", options.port, backlog=1024)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise CannotListen(f"port {options.port} {why}; choose another with --port") from None
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started()
    await stop.wait()
    listening.close()
    await server.shutdown(0.05)  # 0 would mean without a limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command, in one place for manage.py's short way and for Django's."""
    parser.add_argument("--port", type=_whole(1, 65535), required=True, help="Port on 127.0.0.1.")
    parser.add_argument("--latency-ms", type=_number(0, 3.6e6), default=200.0, help="Time to an answer. Default 200.")
    parser.add_argument("--jitter-ms", type=_number(0, 3.6e6), default=0.0, help="Up to this much more. Default 0.")
    parser.add_argument("--error-rate", type=_number(0, 1), default=0.0, help="Share of calls that fail, 0 to 1.")
    parser.add_argument("--seed", type=int, default=0, help="Another seed, other answers and errors. Default 0.")
    parser.add_argument("--region", default="sim", help="Name of the region, shown in answers and statistics.")
    parser.add_argument("--api-key", default="", help="Refuse calls without this key. Default: any key, or none.")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        value = int(raw) if raw.lstrip("-").isdigit() else low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {raw!r}")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {raw!r}")
        return value

    return parse


def run(options: Options) -> int:
    """Serves until it is told to stop; the exit code: 0, or 2 when it cannot listen."""

    def started() -> None:
        print(f"simulated provider {options.region} on http://127.0.0.1:{options.port}/v1", flush=True)  # noqa: T201

    try:
        asyncio.run(serve(options, started=started))
    except CannotListen as error:
        print(f"simulate_provider: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def options_from(values: argparse.Namespace | dict[str, Any]) -> Options:
    """The options among parsed arguments."""
    found = values if isinstance(values, dict) else vars(values)
    return Options(**{name: found[name] for name in Options.__slots__})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"simulate_provider: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str]) -> int:
    """The command without Django: starts in a fraction of a second."""
    parser = _Parser(prog="manage.py simulate_provider", description=DESCRIPTION)
    add_arguments(parser)
    return run(options_from(parser.parse_args(arguments)))


DESCRIPTION = (
    "Serves a simulated, OpenAI-compatible model provider on 127.0.0.1: POST /v1/chat/completions, GET /v1/models, "
    'GET /health, GET /simulator/stats, and POST /simulator/outage with {"seconds": 30, "mode": "refuse"} to take it '
    'down (null seconds: until {"seconds": 0}; modes: refuse, hang, 500, 429, slow: ten times). '
    'POST /simulator/keys with {"accepted": ["key"]} sets the keys that are taken. '
    'Who offers the tool save_file and writes "save it as NAME" in the prompt gets a call of it before the answer. '
    "Models that misbehave: " + "; ".join(f"{name} {what}" for name, what in FAULTS.items()) + "."
)
